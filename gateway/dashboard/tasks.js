// The two tables of tasks, and the button that cancels one.

import { taskAddress } from "./address.js";
import { ConfirmButton } from "./confirm.js";
import { byId, el, middle, Rows, setClass, setMiddle, setText } from "./dom.js";
import {
  DETACHED, firstByteMs, isInFlight, isPresumed, isWaiting, KEPT, NO_WORD, position, PRESUMED_NOTE, target, tookMs,
} from "./fields.js";
import { age, bytes, clock, count, duration, getsInWords, readable } from "./format.js";
import { createdMs } from "./history.js";
import { REASONS } from "./reasons.js";

const MOST_IN_FLIGHT = 200;
const key = (task) => `${task.extensions.attempt}:${task.task_id}`;
const MARK_TITLE = `kept: ${KEPT}. detached: ${DETACHED}.`;
const marks = ({ response, is_detached }) => [response === "kept" && "kept", is_detached && "detached"].filter(Boolean).join(", ");

export class TaskTables {
  address = () => "#/"; // of the list with one more filter: {name: value}

  // `cancel(id)` ends one task; `api` tells the time.
  constructor(api, cancel) {
    this.api = api;
    this.inFlight = new Rows(byId("in-flight"), this.#inFlightColumns(cancel), key, byId("h-in-flight"));
    this.recent = new Rows(byId("recent"), this.#recentColumns(), key, byId("h-recent"));
    this.shownInFlight = [];
    this.shownRecent = [];
    this.waiting = []; // all of them, also those that the table leaves out
  }

  // Shows the names of the API keys, for the key that sees the tasks of all.
  showOwners(isOn) {
    for (const id of ["in-flight", "recent"]) byId(id).classList.toggle("with-owners", isOn);
  }

  // `tasks` are all that run, `shown` those that the user wants to see. `isOld` says that lists fail at the moment.
  showInFlight(all, tasks, isOld) {
    this.shownInFlight = tasks.slice(0, MOST_IN_FLIGHT);
    this.inFlight.show(this.shownInFlight);
    setText(byId("in-flight-count"), String(tasks.length));
    this.waiting = all.filter(isWaiting);
    setText(byId("queue-running"), all.filter(({ state }) => state === "RUNNING").length.toLocaleString());
    setText(byId("queue-waiting"), this.waiting.length.toLocaleString());
    this.#showLongestWait();
    const left = tasks.length - this.shownInFlight.length;
    const nothing = isOld ? "Nothing was running at the last update." : "Nothing runs at the moment.";
    setText(byId("presumed-note"), tasks.some(isPresumed) ? PRESUMED_NOTE : "");
    const note = left > 0 ? `and ${left} older.` : tasks.length ? "" : nothing;
    setText(byId("in-flight-note"), [note, getsInWords(all.length - tasks.length)].filter(Boolean).join(" "));
  }

  // Ages grow between two answers.
  tick() {
    this.inFlight.show(this.shownInFlight);
    this.recent.show(this.shownRecent);
    this.#showLongestWait();
  }

  #showLongestWait() {
    const oldest = Math.min(...this.waiting.map(createdMs));
    setText(byId("queue-longest"), this.waiting.length ? age(this.api.now() - oldest) : "–");
  }

  // `nothing` is said where there is no row; `leftOut` is how many records are malformed, `hidden` how many GET requests
  // are not shown.
  showRecent(tasks, nothing, leftOut, hidden) {
    this.shownRecent = tasks;
    this.recent.show(tasks);
    const others = leftOut ? `Left out: ${count(leftOut, "malformed record", "malformed records")} in the store.` : "";
    setText(byId("recent-note"), [tasks.length ? "" : nothing, getsInWords(hidden), others].filter(Boolean).join(" "));
  }

  #inFlightColumns(cancel) {
    return [
      (cell, task) => this.#fillTask(cell, task),
      (cell, task) => this.#fillLabel(cell, task),
      fillOwner,
      fillStage,
      (cell, task) => setText(cell, age(this.api.now() - createdMs(task))),
      (cell, task) => setText(cell, duration(firstByteMs(task))),
      (cell, { extensions }) => setText(cell, bytes(extensions.response_bytes)),
      (cell, task) => setText(cell, isPresumed(task) ? "–" : `${age(this.api.now() - task.timestamp * 1000)} ago`),
      fillInstance,
      (cell, task) => (cell.control ??= cancelButton(cell, task.task_id, cancel)),
    ];
  }

  #recentColumns() {
    return [
      (cell, task) => this.#fillTask(cell, task),
      (cell, task) => this.#fillLabel(cell, task),
      fillOwner,
      (cell, task) => (isPresumed(task) ? fillBadge(cell, `${task.state}?`, "presumed") : fillBadge(cell, task.state, task.state.toLowerCase())),
      (cell, task) => this.#fillResult(cell, task),
      (cell, task) => setText(cell, clock(createdMs(task), this.api.now())),
      (cell, task) => setText(cell, took(task, this.api.now())),
      (cell, task) => setText(cell, duration(firstByteMs(task))),
      (cell, { extensions }) => setText(cell, bytes(extensions.response_bytes)),
    ];
  }

  #fillTask(cell, task) {
    if (!cell.firstChild) {
      // A link, so that a browser can open the task in another tab, and copy its address.
      const attributes = { href: taskAddress(task.task_id), class: "id", title: task.task_id, "aria-label": task.task_id };
      const link = el("a", attributes, ...middle(task.task_id));
      const mark = el("span", { class: "mark", title: MARK_TITLE });
      cell.append(link, el("a", { class: "target" }, el("bdi")), mark);
    }
    const [, request, mark] = cell.children;
    fillText(request.firstChild, target(task.extensions));
    this.#link(request, { path: task.extensions.path }, `only this path: ${target(task.extensions)}`);
    setText(mark, marks(task.extensions));
  }

  #fillLabel(cell, task) {
    const { label } = task.extensions;
    if (!cell.firstChild && label) cell.append(el("a", { class: "label" }, ...middle("")));
    setClass(cell, label ? "label-cell" : "label-cell none");
    if (!label) return;
    setMiddle(cell.firstChild, readable(label));
    this.#link(cell.firstChild, { label }, `only this label: ${readable(label)}`);
  }

  #fillResult(cell, task) {
    const { extensions, stage } = task;
    const { reason, status_code: status } = extensions;
    if (!cell.firstChild) cell.append(el("a", { class: "filter" }), el("span"));
    const [link, plain] = cell.children;
    const text = reason && reason !== "upstream_status" ? readable(reason) : status == null ? stage : `HTTP ${status}`;
    const isLink = Boolean(reason) && !isPresumed(task);
    link.hidden = !isLink;
    setText(link, isLink ? text : "");
    fillText(plain, isLink ? "" : isPresumed(task) ? `lost? ${NO_WORD}` : text);
    if (isLink) this.#link(link, { reason }, REASONS[reason] ?? "only this reason");
  }

  // A link that adds a filter to those that are set.
  #link(element, filter, title) {
    const href = this.address(filter);
    if (element.getAttribute("href") !== href) element.setAttribute("href", href);
    if (element.title !== title) element.title = title;
  }
}

// Whole seconds while it grows.
function took(task, now) {
  const ms = tookMs(task, now);
  return ms !== null && isInFlight(task) ? age(ms) : duration(ms);
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

function fillOwner(cell, { extensions }) {
  if (!cell.firstChild) cell.append(el("bdi"));
  fillText(cell.firstChild, readable(extensions.owner ?? "–"));
}

function fillInstance(cell, { extensions }) {
  if (!cell.firstChild) cell.append(el("span", { class: "whole" }, ...middle("")));
  setMiddle(cell.firstChild, readable(extensions.instance ?? "–"));
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
