// The tasks that the page knows, each in its newest version, and the earlier attempts that it has seen.
// Says which list to request next, so that one call every two seconds is enough. Has no effects outside its own memory.

import { createdMs, newestFirst } from "./coverage.js";
import { isInFlight, isPresumed, isWaiting } from "./fields.js";
import { Lists } from "./lists.js";

export { createdMs, newestFirst };
const MOST_TASKS = 20_000;
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
  #query = {}; // of the list that the user chose
  #store = new Lists(); // of all gateways
  #own = null; // of this gateway alone, while the store is away

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

  // Whether the newest tasks of all gateways have come.
  get hasNewest() {
    return this.#store.all.hasBegun;
  }

  get inFlight() {
    return this.#current().filter(isInFlight).sort(newestFirst);
  }

  // The tasks created since `sinceMs`, earlier attempts too, in any order.
  since(sinceMs) {
    return this.#each().filter((task) => createdMs(task) >= sinceMs);
  }

  // The known tasks that were created before `ms`, and whose answers went on until after it, in any order.
  sendingAt(ms) {
    const goesOn = ({ first_byte_ms: first, finished_ms: end }) => first != null && (end ?? Infinity) > ms;
    return this.#each().filter((task) => createdMs(task) < ms && goesOn(task.extensions));
  }

  // Up to three ids of tasks in flight that no list has shown for a while: they ended, or are far down the list.
  unseen(now) {
    const old = [...this.#tasks.values()].filter(({ task, seenAt }) => isInFlight(task) && now - seenAt > UNSEEN_MS);
    return old.slice(0, 3).map(({ task }) => task.task_id);
  }

  // The time since when all tasks are known, if that is after `sinceMs`; else null. While the store is away: all tasks of
  // this gateway.
  gapBefore(sinceMs) {
    return this.#lists.all.gapBefore(sinceMs);
  }

  // When the oldest task began that this gateway knows itself, if that is known, and after `sinceMs`; else null.
  ownBeginning(sinceMs) {
    return this.#own?.all.beginningAfter(sinceMs) ?? null;
  }

  // Whether older tasks are still to be requested, for the plots since `sinceMs`.
  isWalking(sinceMs) {
    return this.#lists.isWalking(sinceMs, this.#isFull);
  }

  // -- the list that the user chose --

  // Chooses a list: {}, {state} or {label}.
  choose(query) {
    this.#query = query;
    this.#store.choose(query);
    this.#own?.choose(query);
  }

  // Requests older tasks of the list next.
  urge() {
    this.#lists.urge();
  }

  // Reads the whole list again, if a part of it was forgotten.
  readAgain() {
    if (this.#store.all.isCut) this.#store.all.hasBegun = false;
  }

  // The chosen list as far as it is read, or null before its first answer. While the store is away, all that the page
  // knows of it, and how far this gateway's own list is read.
  //
  // `tasks`: in any order. `read`: how many of them are in the part that is read. `oldest`: the last one of that part.
  // `isRead(task)`: whether it is in that part. `isAtEnd`: the part is the whole list. `hasMore`: more can be read.
  listed() {
    const { view } = this.#lists;
    if (!view.hasBegun && !this.isOwn) return null;
    const { state, label } = view.query;
    const known = this.#current().filter((task) => (!state || task.state === state) && (!label || task.extensions.label === label));
    const read = known.filter((task) => view.reaches(task));
    return {
      tasks: this.isOwn ? known : read,
      read: read.length,
      oldest: view.oldest,
      isRead: (task) => view.reaches(task),
      hasBegun: view.hasBegun,
      isAtEnd: view.isAtEnd,
      hasMore: this.#lists.canRead(view, this.#isFull),
    };
  }

  // -- what to request --

  // Whether the store is away: the lists are those of this gateway alone.
  get isOwn() {
    return this.#own !== null;
  }

  // The store is away.
  beginOwn() {
    if (this.isOwn) return;
    this.#own = new Lists({ isOwn: true });
    this.#own.choose(this.#query);
  }

  // The store answers again.
  endOwn() {
    this.#own = null;
  }

  // The list to request now, of all gateways or of this one. `sinceMs`, `wantedOlder` and `hasStream` as in `Lists.next`.
  nextList(now, { sinceMs = now, wantedOlder = 0, hasStream = false } = {}) {
    return this.#store.next(now, { sinceMs, wantedOlder, hasStream, ...this.#facts, isStoreOnly: this.isOwn });
  }

  nextOwnList(now, { sinceMs, wantedOlder }) {
    return this.#own.next(now, { sinceMs, wantedOlder, ...this.#facts });
  }

  get #facts() {
    return { hasWaiting: this.#current().some(isWaiting), isFull: this.#isFull };
  }

  newestList(now) {
    return this.#store.newest(now);
  }

  // Takes the answer to a list that `nextList`, `nextOwnList` or `newestList` gave.
  take(asked, page, now) {
    asked.lists.take(asked, page);
    if (asked.name === "newest" && asked.lists === this.#store) this.#dropGone(page, asked.askedAt);
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

  get #lists() {
    return this.#own ?? this.#store;
  }

  get #isFull() {
    return this.#tasks.size >= MOST_TASKS;
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
    if (ended.length > MOST_TASKS) for (const lists of [this.#store, this.#own]) lists?.cut(ended[MOST_TASKS - 1]);
  }
}
