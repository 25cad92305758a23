// The two tables of tasks, and the button that cancels one.

import { taskAddress } from "./address.js";
import { ConfirmButton } from "./confirm.js";
import { byId, el, Rows, setClass, setText } from "./dom.js";
import { age, bytes, clock, count, duration, NO_WORD, readable, REASONS } from "./format.js";
import { createdMs, isInFlight, isPresumed, isWaiting } from "./history.js";

// A field that an earlier version did not write into `extensions` is undefined here; it is shown like null.
const MOST_IN_FLIGHT = 200;
const SHOWN_END = 8; // characters of an id that are always shown
const key = (task) => `${task.extensions.attempt}:${task.task_id}`;
export const target = ({ method, path, query }) => readable(`${method} ${path}${query ? `?${query}` : ""}`);
const firstByte = ({ created_ms, first_byte_ms }) => duration(first_byte_ms == null ? null : first_byte_ms - created_ms);

const MARK_TITLE = "kept: the gateway keeps the answer. detached: the task does not need its client any more.";
const marks = ({ response, is_detached }) => [response === "kept" && "kept", is_detached && "detached"].filter(Boolean).join(", ");
const PRESUMED_NOTE = `lost?: ${NO_WORD}. Wait, cancel it, or send its request again: that begins a new attempt.`;
export const position = ({ queue_position, queue_length }) => (queue_position == null ? "" : `position ${queue_position} of ${queue_length}`);
// When a presumed loss was written says nothing of its task.
export const hasEnd = (task) => task.extensions.finished_ms != null && !isPresumed(task);
const took = (task) => duration(hasEnd(task) ? task.extensions.finished_ms - task.extensions.created_ms : null);

export class TaskTables {
  // `cancel(id)` ends one task; `api` tells the time.
  constructor(api, cancel) {
    this.api = api;
    this.inFlight = new Rows(byId("in-flight"), this.#inFlightColumns(cancel), key, byId("h-in-flight"));
    this.recent = new Rows(byId("recent"), this.#recentColumns(), key, byId("h-recent"));
    this.shownInFlight = [];
    this.waiting = []; // all of them, also those that the table leaves out
  }

  // `isOld` says that lists fail at the moment.
  showInFlight(tasks, isOld) {
    this.shownInFlight = tasks.slice(0, MOST_IN_FLIGHT);
    this.inFlight.show(this.shownInFlight);
    setText(byId("in-flight-count"), String(tasks.length));
    this.waiting = tasks.filter(isWaiting);
    setText(byId("queue-running"), tasks.filter(({ state }) => state === "RUNNING").length.toLocaleString());
    setText(byId("queue-waiting"), this.waiting.length.toLocaleString());
    this.#showLongestWait();
    const left = tasks.length - this.shownInFlight.length;
    const nothing = isOld ? "Nothing was running at the last update." : "Nothing runs at the moment.";
    setText(byId("presumed-note"), tasks.some(isPresumed) ? PRESUMED_NOTE : "");
    setText(byId("in-flight-note"), left > 0 ? `and ${left} older` : tasks.length ? "" : nothing);
  }

  // Ages grow between two answers.
  tick() {
    this.inFlight.show(this.shownInFlight);
    this.#showLongestWait();
  }

  #showLongestWait() {
    const oldest = Math.min(...this.waiting.map(createdMs));
    setText(byId("queue-longest"), this.waiting.length ? age(this.api.now() - oldest) : "–");
  }

  // `leftOut` says how many records of the page are malformed.
  showRecent(tasks, isFiltered, leftOut) {
    this.recent.show(tasks);
    const nothing = isFiltered ? "No such tasks." : "No task yet. Requests to /v1/… appear here.";
    const others = leftOut ? `Left out: ${count(leftOut, "malformed record", "malformed records")} in the store.` : "";
    setText(byId("recent-note"), [tasks.length ? "" : nothing, others].filter(Boolean).join(" "));
  }

  #inFlightColumns(cancel) {
    return [
      fillTask,
      fillStage,
      (cell, task) => setText(cell, age(this.api.now() - createdMs(task))),
      (cell, { extensions }) => setText(cell, firstByte(extensions)),
      (cell, { extensions }) => setText(cell, bytes(extensions.response_bytes)),
      (cell, task) => setText(cell, isPresumed(task) ? "–" : `${age(this.api.now() - task.timestamp * 1000)} ago`),
      (cell, { extensions }) => fillText(cell, readable(extensions.instance ?? "–")),
      (cell, task) => (cell.control ??= cancelButton(cell, task.task_id, cancel)),
    ];
  }

  #recentColumns() {
    return [
      fillTask,
      (cell, task) => (isPresumed(task) ? fillBadge(cell, `${task.state}?`, "presumed") : fillBadge(cell, task.state, task.state.toLowerCase())),
      fillResult,
      (cell, task) => setText(cell, clock(createdMs(task), this.api.now())),
      (cell, task) => setText(cell, took(task)),
      (cell, { extensions }) => setText(cell, firstByte(extensions)),
      (cell, { extensions }) => setText(cell, bytes(extensions.response_bytes)),
    ];
  }
}

// An id that is too long for its cell loses characters in the middle: the ids of one job often differ at the end.
function taskLink(id) {
  const attributes = { href: taskAddress(id), class: "id", title: id, "aria-label": id };
  return el("a", attributes, el("span", {}, id.slice(0, -SHOWN_END)), el("span", {}, id.slice(-SHOWN_END)));
}

// A link, so that a browser can open the task in another tab, and copy its address.
function fillTask(cell, task) {
  if (!cell.firstChild) {
    const link = taskLink(task.task_id);
    const mark = el("span", { class: "mark", title: MARK_TITLE });
    cell.append(link, el("bdi", { class: "target" }), el("bdi", { class: "label" }), mark);
  }
  const [, request, label, mark] = cell.children;
  fillText(request, target(task.extensions));
  fillText(label, readable(task.extensions.label ?? ""));
  setText(mark, marks(task.extensions));
}

function fillText(element, text) {
  setText(element, text);
  if (element.title !== text) element.title = text;
}

function fillBadge(cell, text, kind) {
  if (!cell.firstChild) cell.append(el("span"));
  setText(cell.firstChild, text);
  setClass(cell.firstChild, `badge ${kind}`);
}

// The stage; below it, in the queue, the position.
function fillStage(cell, task) {
  if (isPresumed(task)) fillBadge(cell, "lost?", "presumed");
  else fillBadge(cell, task.stage, task.stage);
  if (cell.children.length === 1) cell.append(el("span", { class: "position" }));
  setText(cell.lastChild, isPresumed(task) ? NO_WORD : position(task.extensions));
}

function fillResult(cell, task) {
  const { extensions, stage } = task;
  const { reason, status_code: status } = extensions;
  if (isPresumed(task)) return fillText(cell, `lost? ${NO_WORD}`);
  setText(cell, reason && reason !== "upstream_status" ? readable(reason) : status == null ? stage : `HTTP ${status}`);
  const title = REASONS[reason] ?? "";
  if (cell.title !== title) cell.title = title;
}

export function cancelButton(cell, id, cancel) {
  const words = { ask: "Cancel", yes: "Really cancel", no: "Keep", doing: "Cancelling…", what: `the task ${id}` };
  return new ConfirmButton(cell, words, async () => outcome(id, await cancel(id)), `The task ${id} was not cancelled`);
}

function outcome(id, task) {
  if (isPresumed(task)) return `The task ${id} will be cancelled if its gateway speaks within a minute.`;
  if (isInFlight(task)) return `The task ${id} was told to stop.`;
  return task.stage === "cancelled" ? `The task ${id} is cancelled.` : `The task ${id} had already ended: ${task.state}.`;
}

export const tasksInWords = (number) => count(number, "task", "tasks");
