// The lists of the gateway that the page reads: in which order it requests them, and how far it has read each. Pure.

import { Coverage } from "./coverage.js";

export const PAGE = 50;
const IN_FLIGHT_PAGE = 200;
const WALK_PAGE = 1000;
const OWN = { scope: "instance" }; // only what this gateway itself knows, as it is now; it needs no store
const NEVER = -100; // before any rest: a list that was never requested comes first, of two the one with the shorter rest

export class Lists {
  #requested = 0; // how many lists
  #last = new Map(); // name of a list -> the value of #requested at its last request
  #isNewestFull = false;

  // With `isOwn`, of the tasks that this gateway itself knows; else of all tasks in the store.
  constructor({ isOwn = false } = {}) {
    this.isOwn = isOwn;
    this.base = isOwn ? OWN : {};
    this.all = new Coverage(this.base);
    this.view = this.all; // the list that the user chose
  }

  // Chooses a list: {}, {state} or {label}.
  choose(query) {
    const wanted = { ...this.base, ...query };
    if (JSON.stringify(wanted) === JSON.stringify(this.view.query)) return;
    this.view = Object.keys(query).length ? new Coverage(wanted) : this.all;
    this.#last.delete("view");
    this.#last.delete("older");
  }

  // Requests older tasks of the chosen list next.
  urge() {
    this.#last.delete("older");
  }

  // The page has forgotten what is older than `kept`.
  cut(kept) {
    for (const list of new Set([this.all, this.view])) list.cut(kept);
  }

  // Whether more of a list can be read. `isFull`: the page can hold no more tasks; it still closes gaps.
  canRead(list, isFull) {
    return list.cursor !== null && (list.hasGap || !isFull);
  }

  // Whether older tasks are still to be requested, for the plots since `sinceMs`.
  isWalking(sinceMs, isFull) {
    return this.all.hasGap || (this.all.gapBefore(sinceMs) !== null && this.canRead(this.all, isFull));
  }

  // The list to request now: the newest tasks at least every other time, else the list that is due longest.
  //
  // `sinceMs`: the plots want all tasks from then on. `wantedOlder`: so many older tasks of the chosen list are wanted.
  // `hasWaiting`: a task waits in the queue. `hasStream`: one streams. `isFull`: as above. `isStoreOnly`: leaves out this
  // gateway's own tasks.
  next(now, wish) {
    this.#requested += 1;
    const due = this.#others(wish).filter((list) => this.#waited(list) > 0);
    const isFirst = due.some(({ name }) => !this.#last.has(name));
    if (!due.length || (this.#requested % 2 && !isFirst)) return this.newest(now);
    const next = due.reduce((a, b) => (this.#waited(b) > this.#waited(a) ? b : a));
    this.#last.set(next.name, this.#requested);
    return { ...next, lists: this, askedAt: now };
  }

  newest(now) {
    return { name: "newest", lists: this, list: this.all, isHead: true, path: path({ limit: PAGE, ...this.base }), askedAt: now };
  }

  // Takes the answer to a list of `next` or `newest`.
  take({ name, list, isHead }, page) {
    if (name === "newest") this.#isNewestFull = page.next_cursor !== null;
    if (list && isHead) list.takeHead(page);
    else if (list) list.takeNext(page);
  }

  // How long a list has been due, in requested lists.
  #waited({ name, rest }) {
    return this.#requested - rest - (this.#last.get(name) ?? NEVER);
  }

  // The lists besides the newest. `rest`: so many others are requested between two requests for it. `list`: the list that
  // it is a page of. `isOnce`: its answer differs each time.
  #others({ sinceMs, wantedOlder, hasWaiting, hasStream, isFull, isStoreOnly }) {
    const others = [...this.#olderOnes(sinceMs, wantedOlder, isFull)];
    const inFlight = (state, rest) => others.push({ name: state, rest, path: path({ limit: IN_FLIGHT_PAGE, state, ...this.base }) });
    const live = (name, state, rest) => others.push({ name, rest, isOnce: true, isLive: true, path: path({ ...OWN, state, limit: IN_FLIGHT_PAGE }) });
    if (this.view !== this.all) others.push({ name: "view", rest: 1, list: this.view, isHead: true, path: path({ limit: PAGE, ...this.view.query }) });
    if (this.#isNewestFull) inFlight("RUNNING", 5);
    if (this.#isNewestFull) inFlight("PENDING", hasWaiting ? 3 : 9); // positions change often
    if (this.isOwn || isStoreOnly) return others;
    if (hasWaiting) live("waiting", "PENDING", 3);
    if (hasStream) live("live", "RUNNING", 1);
    return others;
  }

  #olderOnes(sinceMs, wantedOlder, isFull) {
    const [all, view] = [this.all, this.view];
    const older = (name, limit, list) => ({ name, rest: 0, list, isOnce: true, path: path({ limit, cursor: list.cursor, ...list.query }) });
    const isWanted = view.hasBegun && wantedOlder > 0 && this.canRead(view, isFull);
    const found = [];
    if (isWanted) found.push(older("older", Math.min(wantedOlder, WALK_PAGE), view));
    else if (view !== all && view.hasGap) found.push(older("older", WALK_PAGE, view));
    if (all.hasBegun && this.isWalking(sinceMs, isFull)) found.push(older("walk", WALK_PAGE, all));
    return found;
  }
}

// The path of a list with these parameters; empty ones are left out.
export function path(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value);
  return `/tasks/status?${new URLSearchParams(given)}`;
}
