// The tasks that the page knows: those of the last 15 minutes and those in flight, each in its newest version.
// Decides which list to request next, so that one call every two seconds is enough. Has no effects outside its own memory.

export const WINDOW_MS = 15 * 60_000;
export const PAGE = 50;
const IN_FLIGHT_PAGE = 200;
const WALK_PAGE = 500;
const MOST_TASKS = 5000;
const MOST_WALKS = 10;
const UNSEEN_MS = 15_000;

const RANKS = { queued: 0, forwarding: 1, streaming: 2 };
const rank = (task) => RANKS[task.stage] ?? 3;

// A presumed loss: there is no word from the task's gateway, which may still run it. Earlier gateways do not tell.
export const isPresumed = (task) => task.extensions.is_presumed === true;
export const isInFlight = (task) => task.state === "PENDING" || task.state === "RUNNING" || isPresumed(task);
export const isWaiting = (task) => task.state === "PENDING" && task.extensions.queue_position != null;
export const createdMs = (task) => task.extensions.created_ms;
export const newestFirst = (a, b) => createdMs(b) - createdMs(a) || (a.task_id < b.task_id ? 1 : -1);

// The later of two versions of a task; `a` if they do not tell. A new attempt is a new creation.
export function later(a, b) {
  if (createdMs(a) !== createdMs(b)) return createdMs(a) > createdMs(b) ? a : b;
  if (isPresumed(a) !== isPresumed(b)) return isPresumed(a) ? unlessSilentSince(b, a) : unlessSilentSince(a, b);
  if (rank(a) !== rank(b)) return rank(a) > rank(b) ? a : b;
  return a.timestamp >= b.timestamp ? a : b;
}

// A gateway's own word of a task is later than a presumed loss, except if the presumption came after that word.
function unlessSilentSince(task, presumed) {
  return isInFlight(task) && presumed.timestamp > task.timestamp ? presumed : task;
}

export class History {
  #tasks = new Map(); // id -> {task, seenAt}
  #walks = []; // cursors of pages between the known and the new tasks
  #turn = 0;
  #asked = new Map(); // name of a list -> the turn in which it was requested
  #isNewestFull = false;
  #coveredMs = 0; // the page knows only some of the tasks that were created before this

  // Takes tasks from any answer. `now` is by the gateway's clock.
  merge(tasks, now) {
    for (const task of tasks) {
      const known = this.#tasks.get(task.task_id);
      this.#tasks.set(task.task_id, { task: known ? later(task, known.task) : task, seenAt: now });
    }
    this.#forget(now);
  }

  forgetTask(id) {
    this.#tasks.delete(id);
  }

  best(task) {
    const known = this.#tasks.get(task.task_id);
    return known ? later(known.task, task) : task;
  }

  get inFlight() {
    return this.#all().filter(isInFlight).sort(newestFirst);
  }

  // The tasks created since `sinceMs`, in any order.
  since(sinceMs) {
    return this.#all().filter((task) => createdMs(task) >= sinceMs);
  }

  // Up to three ids of tasks in flight that no list has shown for a while: they ended, or are far down the list.
  unseen(now) {
    const old = [...this.#tasks.values()].filter(({ task, seenAt }) => isInFlight(task) && now - seenAt > UNSEEN_MS);
    return old.slice(0, 3).map(({ task }) => task.task_id);
  }

  // The time from which on all tasks are known, if it is inside the 15 minutes; else null.
  gapBefore(now) {
    return this.#coveredMs > now - WINDOW_MS ? this.#coveredMs : null;
  }

  get isWalking() {
    return this.#walks.length > 0;
  }

  // The list to request now: the newest tasks at least every other time, else the list that is due longest.
  // `viewPath` is the list that the user chose to see, or null.
  nextList(viewPath) {
    this.#turn += 1;
    const due = this.#others(viewPath).filter((other) => this.#waited(other) > 0);
    const isFirst = due.some(({ name }) => !this.#asked.has(name));
    if (!due.length || (this.#turn % 2 && !isFirst)) return { kind: "newest", path: path({ limit: PAGE }) };
    const next = due.reduce((a, b) => (this.#waited(b) > this.#waited(a) ? b : a));
    this.#asked.set(next.name, this.#turn);
    return next;
  }

  // How many turns a list has been due.
  #waited({ name, rest }) {
    return this.#turn - rest - (this.#asked.get(name) ?? -100);
  }

  // The lists besides the newest, each with the turns that it rests between two requests.
  #others(viewPath) {
    const others = [];
    const add = (name, rest, kind, parameters) => others.push({ name, rest, kind, path: path(parameters) });
    if (this.#isNewestFull) add("RUNNING", 5, "in-flight", { limit: IN_FLIGHT_PAGE, state: "RUNNING" });
    if (this.#walks.length) add("walk", 0, "walk", { limit: WALK_PAGE, cursor: this.#walks.at(-1) });
    const rest = this.#all().some(isWaiting) ? 3 : 9; // positions change often
    if (this.#isNewestFull) add("PENDING", rest, "in-flight", { limit: IN_FLIGHT_PAGE, state: "PENDING" });
    if (viewPath) others.push({ name: "view", rest: 1, kind: "view", path: viewPath });
    return others;
  }

  // Takes the answer to the list that `nextList` gave.
  take(kind, page, now) {
    const last = page.items.at(-1); // none if all records of a page are malformed
    const isNew = !last || (!this.#tasks.has(last.task_id) && createdMs(last) > Math.max(now - WINDOW_MS, this.#coveredMs));
    const isGap = page.next_cursor !== null && isNew;
    if (kind === "newest") this.#isNewestFull = page.next_cursor !== null;
    if (kind === "walk") this.#walks.pop();
    this.merge(page.items, now);
    if (isGap && (kind === "newest" || kind === "walk")) this.#walk(page.next_cursor, last ? createdMs(last) : now);
  }

  #walk(cursor, fromMs) {
    if (this.#walks.length < MOST_WALKS && this.#tasks.size < MOST_TASKS) this.#walks.push(cursor);
    else this.#coveredMs = Math.max(this.#coveredMs, fromMs);
  }

  #all() {
    return [...this.#tasks.values()].map(({ task }) => task);
  }

  #forget(now) {
    for (const [id, { task }] of this.#tasks)
      if (!isInFlight(task) && createdMs(task) < now - WINDOW_MS) this.#tasks.delete(id);
    if (this.#tasks.size <= MOST_TASKS) return;
    const ended = this.#all().filter((task) => !isInFlight(task)).sort(newestFirst);
    for (const task of ended.slice(MOST_TASKS)) {
      this.#coveredMs = Math.max(this.#coveredMs, createdMs(task));
      this.#tasks.delete(task.task_id);
    }
  }
}

// The path of a list with these parameters; empty ones are left out.
export function path(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value);
  return `/tasks/status?${new URLSearchParams(given)}`;
}
