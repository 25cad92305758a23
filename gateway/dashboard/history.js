// The tasks that the page knows, each in its newest version, and the earlier attempts that it has seen.
// Decides which list to request next, so that one call every two seconds is enough. Has no effects outside its own memory.

import { Coverage, createdMs, newestFirst } from "./coverage.js";
import { isInFlight, isPresumed, isWaiting } from "./fields.js";

export { createdMs, newestFirst };
export const PAGE = 50;
export const MOST_TASKS = 20_000;
const IN_FLIGHT_PAGE = 200;
const WALK_PAGE = 1000;
const UNSEEN_MS = 15_000;

const RANKS = { queued: 0, forwarding: 1, streaming: 2 };
const rank = (task) => RANKS[task.stage] ?? 3;

const nameOf = (task) => `${createdMs(task)}:${task.task_id}`; // of one attempt: a new one is a new creation

// The later of two versions of a task; `a` if they do not tell. A new attempt is a new creation.
export function later(a, b) {
  if (createdMs(a) !== createdMs(b)) return createdMs(a) > createdMs(b) ? a : b;
  if (isPresumed(a) !== isPresumed(b)) return isPresumed(a) ? unlessSilentSince(b, a) : unlessSilentSince(a, b);
  if (rank(a) !== rank(b)) return rank(a) > rank(b) ? a : b;
  if (a.timestamp !== b.timestamp) return a.timestamp > b.timestamp ? a : b;
  return (b.extensions.response_bytes ?? 0) > (a.extensions.response_bytes ?? 0) ? b : a;
}

// A gateway's own word of a task is later than a presumed loss, except if the presumption came after that word.
function unlessSilentSince(task, presumed) {
  return isInFlight(task) && presumed.timestamp > task.timestamp ? presumed : task;
}

export class History {
  #tasks = new Map(); // name of an attempt -> {task, seenAt}
  #newest = new Map(); // id -> the name of its newest attempt
  #all = new Coverage({});
  #view = this.#all; // of the list that the user chose
  #turn = 0;
  #asked = new Map(); // name of a list -> the turn in which it was requested
  #isNewestFull = false;

  // Takes tasks from any answer. `now` is by the gateway's clock.
  merge(tasks, now) {
    for (const task of tasks) this.#merge(task, now);
    this.#forget();
  }

  #merge(task, now) {
    const name = nameOf(task);
    const known = this.#tasks.get(name);
    this.#tasks.set(name, { task: known ? later(task, known.task) : task, seenAt: now });
    const before = this.#newest.get(task.task_id);
    const other = before === name ? undefined : this.#tasks.get(before)?.task;
    if (other && createdMs(other) > createdMs(task)) return;
    this.#newest.set(task.task_id, name);
    if (other && isInFlight(other)) this.#tasks.delete(before); // how it ended is not known
  }

  forgetTask(id) {
    this.#tasks.delete(this.#newest.get(id));
    this.#newest.delete(id);
  }

  best(task) {
    const known = this.#tasks.get(this.#newest.get(task.task_id));
    return known ? later(known.task, task) : task;
  }

  // Whether the newest tasks of all have come.
  get hasNewest() {
    return this.#all.hasBegun;
  }

  get inFlight() {
    return this.#current().filter(isInFlight).sort(newestFirst);
  }

  // The tasks created since `sinceMs`, earlier attempts too, in any order.
  since(sinceMs) {
    return this.#each().filter((task) => createdMs(task) >= sinceMs);
  }

  // Up to three ids of tasks in flight that no list has shown for a while: they ended, or are far down the list.
  unseen(now) {
    const old = [...this.#tasks.values()].filter(({ task, seenAt }) => isInFlight(task) && now - seenAt > UNSEEN_MS);
    return old.slice(0, 3).map(({ task }) => task.task_id);
  }

  // The time since when all tasks are known, if that is after `sinceMs`; else null.
  gapBefore(sinceMs) {
    const { oldest } = this.#all;
    return this.#all.hasBegun && oldest !== null && !this.#all.isBackTo(sinceMs) ? createdMs(oldest) : null;
  }

  // Whether older tasks are still to be requested, for the plots since `sinceMs`.
  isWalking(sinceMs) {
    return this.#all.hasGap || (this.gapBefore(sinceMs) !== null && this.#hasRoomFor(this.#all));
  }

  // -- the list that the user chose --

  // Chooses a list: {}, {state} or {label}.
  look(query) {
    if (JSON.stringify(query) === JSON.stringify(this.#view.query)) return;
    this.#view = Object.keys(query).length ? new Coverage(query) : this.#all;
    this.#asked.delete("view");
    this.#asked.delete("search");
  }

  // Requests older tasks of the list next.
  urge() {
    this.#asked.delete("search");
  }

  // Reads the whole list again, if a part of it was forgotten.
  readAgain() {
    if (this.#all.isCut) this.#all.hasBegun = false;
  }

  // {tasks, oldest, isAtEnd, hasMore} of the chosen list as far as it is read, in any order; null before its first answer.
  // With `isAny`, all tasks that the page knows of it, however they came to be known.
  listed(isAny = false) {
    const view = this.#view;
    if (!view.hasBegun && !isAny) return null;
    const { state, label } = view.query;
    const belongs = (task) => (!state || task.state === state) && (!label || task.extensions.label === label);
    const tasks = this.#current().filter((task) => belongs(task) && (isAny || view.reaches(task)));
    return { tasks, oldest: view.oldest, isAtEnd: isAny || view.isAtEnd, hasMore: !isAny && this.#hasRoomFor(view) };
  }

  // -- what to request --

  // The list to request now: the newest tasks at least every other time, else the list that is due longest.
  // `sinceMs`: the plots want all tasks from then on. `search`: so many older tasks of the chosen list are wanted.
  // `isLive`: something streams, so this gateway's own sizes of now are wanted.
  // `isStoreOnly`: this gateway's own tasks are known anyway.
  nextList(now, { sinceMs = now, search = 0, isLive = false, isStoreOnly = false } = {}) {
    this.#turn += 1;
    const others = this.#others(sinceMs, search, isLive).filter(({ isOwn }) => !(isOwn && isStoreOnly));
    const due = others.filter((other) => this.#waited(other) > 0);
    const isFirst = due.some(({ name }) => !this.#asked.has(name));
    if (!due.length || (this.#turn % 2 && !isFirst)) return this.newestList(now);
    const next = due.reduce((a, b) => (this.#waited(b) > this.#waited(a) ? b : a));
    this.#asked.set(next.name, this.#turn);
    return { ...next, askedAt: now };
  }

  newestList(now) {
    return { name: "newest", kind: "head", coverage: this.#all, path: path({ limit: PAGE }), askedAt: now };
  }

  // How many turns a list has been due.
  #waited({ name, rest }) {
    return this.#turn - rest - (this.#asked.get(name) ?? -100);
  }

  // The lists besides the newest, each with the turns that it rests between two requests.
  #others(sinceMs, search, isLive) {
    const others = [];
    const view = this.#view;
    const add = (name, rest, kind, parameters, coverage = null) => others.push({ name, rest, kind, coverage, isOwn: "scope" in parameters, path: path(parameters) });
    const walk = (name, limit, list) => add(name, 0, "next", { limit, cursor: list.cursor, ...list.query }, list);
    if (this.#isNewestFull) add("RUNNING", 5, "in-flight", { limit: IN_FLIGHT_PAGE, state: "RUNNING" });
    if (view !== this.#all) add("view", 1, "head", { limit: PAGE, ...view.query }, view);
    if (view.hasBegun && search && this.#hasRoomFor(view)) walk("search", Math.min(search, WALK_PAGE), view);
    else if (view !== this.#all && view.hasGap) walk("search", WALK_PAGE, view);
    if (this.#all.hasBegun && this.isWalking(sinceMs)) walk("walk", WALK_PAGE, this.#all);
    const rest = this.#current().some(isWaiting) ? 3 : 9; // positions change often
    if (this.#isNewestFull) add("PENDING", rest, "in-flight", { limit: IN_FLIGHT_PAGE, state: "PENDING" });
    if (this.#current().some(isWaiting)) add("waiting", 3, "in-flight", { scope: "instance", state: "PENDING", limit: IN_FLIGHT_PAGE });
    if (isLive) add("live", 1, "in-flight", { scope: "instance", state: "RUNNING", limit: IN_FLIGHT_PAGE });
    return others;
  }

  // Takes the answer to the list that `nextList` gave.
  take(list, page, now) {
    if (list.name === "newest") this.#isNewestFull = page.next_cursor !== null;
    if (list.kind === "head") list.coverage.takeHead(page);
    if (list.kind === "next") list.coverage.takeNext(page);
    if (list.name === "newest") this.#dropGone(page, list.askedAt);
    this.merge(page.items, now);
  }

  // The newest tasks are exactly those of the answer. What else was known is gone from the gateway, except earlier attempts.
  #dropGone({ items, next_cursor: cursor }, askedAt) {
    if (!items.length && cursor !== null) return; // only malformed records
    const last = cursor === null ? null : items.at(-1);
    const listed = new Set(items.map(nameOf));
    const isTried = new Set(items.map(({ task_id: id }) => id));
    for (const [name, { task, seenAt }] of this.#tasks) {
      const isInRange = last === null || newestFirst(task, last) < 0;
      if (!isInRange || listed.has(name) || seenAt >= askedAt || isTried.has(task.task_id)) continue;
      if (this.#newest.get(task.task_id) === name) this.forgetTask(task.task_id);
    }
  }

  #hasRoomFor(list) {
    return list.cursor !== null && (list.hasGap || this.#tasks.size < MOST_TASKS);
  }

  #each() {
    return [...this.#tasks.values()].map(({ task }) => task);
  }

  // Without earlier attempts.
  #current() {
    return this.#each().filter((task) => this.#newest.get(task.task_id) === nameOf(task));
  }

  #forget() {
    if (this.#tasks.size <= MOST_TASKS) return;
    const ended = this.#each().filter((task) => !isInFlight(task)).sort(newestFirst);
    for (const task of ended.slice(MOST_TASKS)) {
      this.#tasks.delete(nameOf(task));
      if (this.#newest.get(task.task_id) === nameOf(task)) this.#newest.delete(task.task_id);
    }
    const kept = ended[Math.min(MOST_TASKS, ended.length) - 1];
    if (ended.length > MOST_TASKS) for (const list of new Set([this.#all, this.#view])) list.cut(kept);
  }
}

// The path of a list with these parameters; empty ones are left out.
export function path(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value);
  return `/tasks/status?${new URLSearchParams(given)}`;
}
