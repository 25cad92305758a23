// The view of one task. While it is open and the task is in flight, it follows the task: one request at a time, which ends
// with the view, so that it takes one of the browser's few connections and no more.

import { taskAddress } from "./address.js";
import { KeptAnswer } from "./answer.js";
import { Away, inWords, Refused, statusPath } from "./api.js";
import { CopyButton } from "./copy.js";
import { byId, el, setClass, setText } from "./dom.js";
import { Facts } from "./facts.js";
import { isInFlight, isPresumed, isWaiting } from "./fields.js";
import { age, readable, readableLines } from "./format.js";
import { later } from "./history.js";
import { Pace } from "./poller.js";
import { advice } from "./reasons.js";
import { stageInWords } from "./stages.js";
import { cancelButton } from "./tasks.js";
import { Timeline } from "./timeline.js";

const WAIT_SECONDS = 25;
const LIVE_WAIT_SECONDS = 2; // between two looks at values that change without an event
const LONGER_MS = 10_000; // longer than the gateway waits
const EVERY_MS = 2000;
const AGAIN_MS = 5000; // after an error
const DOTS = /^\.{1,2}$/; // a browser takes such a segment out of a path, and would ask for something else

export class TaskView {
  #closing = new AbortController();
  #known = null; // the last answer, for its ETag
  #told = ""; // the stage that a screen reader knows
  #askedToStopMs = null;
  #cancels = ""; // what the cancel button is for

  // `onNews(task)` gets every document that arrives, `onRefused()` is called when the gateway wants another key, and
  // `onLeave()` when the user goes back to the tasks. `cancel(id)` ends a task.
  constructor(api, { onNews, onRefused, onLeave, cancel }) {
    Object.assign(this, { api, onNews, onRefused, cancel });
    this.id = null; // the task that is open
    this.answer = new KeptAnswer(api, (id) => this.#renew(id));
    this.facts = new Facts();
    this.timeline = new Timeline();
    this.copies = [
      new CopyButton(byId("copy-id"), () => this.id),
      new CopyButton(byId("copy-address"), () => `${location.origin}/${taskAddress(this.id)}`),
      new CopyButton(byId("copy-document"), () => byId("task-document").textContent),
    ];
    document.addEventListener("visibilitychange", () => this.hurry());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !event.defaultPrevented && this.id !== null) onLeave();
    });
  }

  open(id) {
    if (id === this.id) return;
    this.close();
    this.id = id;
    setText(byId("task-id"), readable(id));
    byId("h-task").focus();
    this.#showTitle();
    if (DOTS.test(id)) return this.#say(`not a task id: ${id}`);
    this.#say("Asking for the task…");
    this.hurry();
  }

  // Stops asking, and removes all that was shown.
  close() {
    this.#closing.abort();
    [this.id, this.#known, this.#told, this.#askedToStopMs, this.#cancels] = [null, null, "", null, ""];
    this.answer.close();
    this.facts.clear();
    this.timeline.clear();
    for (const copy of this.copies) copy.reset();
    for (const name of ["task-id", "task-badge", "task-document", "task-news", "task-note", "task-problem", "task-cancel"])
      byId(name).replaceChildren();
    setClass(byId("task-badge"), "");
    byId("task-found").hidden = byId("task-actions").hidden = true;
    byId("task-document-fold").open = false;
    document.title = "Ollama Gateway";
  }

  // Asks at once, and from then on as the task needs it.
  hurry() {
    this.#closing.abort();
    this.#closing = new AbortController();
    if (this.id !== null && !DOTS.test(this.id) && !document.hidden) this.#follow(this.#closing.signal);
  }

  // Ages grow between two answers.
  tick() {
    if (this.#known === null) return;
    this.#showTimes();
  }

  // -- asking ----------------------------------------------------------------------------------------------------------

  async #follow(signal) {
    const pace = new Pace(EVERY_MS);
    while (!signal.aborted && (this.#known === null || isInFlight(this.#known.body))) {
      try {
        await pause(this.#known === null ? await this.#look(signal) : await this.#wait(pace, signal));
      } catch (error) {
        if (signal.aborted || this.#stopFor(error)) return;
        if (!(error instanceof Away || error instanceof Refused)) reportError(error);
        this.#say(`${inWords(error).replace(/\.?$/, ".")} This page tries again.`);
        await pause(AGAIN_MS);
      }
    }
  }

  // Says why it is useless to ask again, if it is. Returns whether it is.
  #stopFor(error) {
    if (!(error instanceof Refused)) return false;
    if (error.status === 401) this.onRefused();
    const isUseless = error.status === 401 || (this.#known === null && [400, 404].includes(error.status));
    if (isUseless && this.id !== null) this.#say(inWords(error));
    return isUseless;
  }

  // Requests the task as it is now.
  async #look(signal) {
    const answer = await this.api.get(statusPath(this.id), { signal });
    if (!signal.aborted) this.#take(answer);
    return 0;
  }

  // Waits for another event of the task. If there is none, looks for values that change without one: bytes, the position
  // in the queue, the last heartbeat. Returns how long to pause before the next question.
  async #wait(pace, signal) {
    const known = this.#known;
    const askedAt = performance.now();
    const seconds = isLive(known.body) ? LIVE_WAIT_SECONDS : WAIT_SECONDS;
    const options = { known, signal, timeoutMs: seconds * 1000 + LONGER_MS };
    const answer = await this.api.get(`${statusPath(this.id)}?wait=${seconds}`, options);
    if (signal.aborted) return 0;
    const isNew = answer.body.event_id !== known.body.event_id;
    if (answer !== known) this.#take(answer);
    const restMs = pace.restMs(performance.now() - askedAt, isNew);
    if (isNew) return restMs;
    await pause(restMs);
    return signal.aborted ? 0 : this.#look(signal);
  }

  // Requests the same task again, after something was done to it.
  async #renew(id) {
    const answer = await this.api.get(statusPath(id));
    if (id === this.id) this.#take(answer);
  }

  async #cancel(id) {
    const task = await this.cancel(id);
    if (id !== this.id) return task;
    if (isInFlight(task)) this.#askedToStopMs = Date.now();
    this.#take({ etag: null, body: task });
    this.hurry();
    return task;
  }

  // -- showing ---------------------------------------------------------------------------------------------------------

  // Behind a balancer an answer may come from another gateway, which knows an earlier version.
  #take(answer) {
    const isLater = this.#known === null || later(answer.body, this.#known.body) === answer.body;
    if (isLater) this.#known = answer;
    this.#say("");
    this.#show(this.#known.body);
    this.onNews(this.#known.body);
  }

  #show(task) {
    byId("task-found").hidden = byId("task-actions").hidden = false;
    const mark = isPresumed(task) ? "?" : "";
    setText(byId("task-badge"), task.state + mark);
    setClass(byId("task-badge"), `badge ${mark ? "presumed" : task.state.toLowerCase()}`);
    this.#showTitle(task.state + mark);
    this.#showAdvice(task);
    this.answer.show(task);
    setLines(byId("task-document"), readableLines(JSON.stringify(task, null, 2)).split("\n"));
    this.#showCancel(task);
    this.#showTimes();
    this.#tell(task);
  }

  #showTitle(state = "") {
    document.title = [state, readable(this.id), "Ollama Gateway"].filter(Boolean).join(" · ");
  }

  // What grows with the time.
  #showTimes() {
    const task = this.#known.body;
    const now = this.api.now();
    setText(byId("task-note"), this.#note(task));
    this.timeline.draw(task, now);
    this.facts.show(task, now);
  }

  #note(task) {
    if (!isInFlight(task)) return "";
    if (this.#askedToStopMs !== null) return `Asked to stop ${age(Date.now() - this.#askedToStopMs)} ago.`;
    if (isPresumed(task)) return "Changes appear here.";
    return isWaiting(task) ? "The task waits for its turn. Changes appear here." : "The task is running. Changes appear here.";
  }

  #showAdvice(task) {
    const found = advice(task);
    byId("task-advice").hidden = found === null;
    setText(byId("task-means"), found?.means ?? "");
    setText(byId("task-next"), found?.next ?? "");
    setText(byId("task-error-note"), found?.note ?? "");
    byId("task-error").hidden = !found?.text;
    setText(byId("task-error-text"), readable(found?.text ?? ""));
    const { attempt } = task.extensions;
    setText(byId("timeline-note"), attempt > 1 ? `These are the times of attempt ${attempt}. Those of earlier attempts are not kept.` : "");
  }

  // The button stays itself while the task is in flight, so that a question in it is not lost.
  #showCancel(task) {
    const place = byId("task-cancel");
    const cancels = isInFlight(task) ? `${task.extensions.attempt} ${this.#askedToStopMs ?? ""}` : "";
    if (cancels === this.#cancels) return;
    this.#cancels = cancels;
    const hadFocus = place.contains(document.activeElement);
    place.replaceChildren();
    if (cancels) cancelButton(place, task.task_id, (id) => this.#cancel(id));
    if (hadFocus) byId("h-task").focus();
  }

  // Tells a screen reader of another stage; bytes and ages are silent, and so is what was there when the task was opened.
  #tell(task) {
    const stage = `${task.extensions.attempt} ${task.stage} ${isPresumed(task)}`;
    if (this.#told !== "" && this.#told !== stage) setText(byId("task-news"), stageInWords(task));
    this.#told = stage;
  }

  #say(problem) {
    setText(byId("task-problem"), problem);
  }
}

// Whether values of the task change between its events.
const isLive = (task) => isWaiting(task) || (task.stage === "streaming" && !isPresumed(task));

// Writes only the lines that changed, so that a selection in the others survives.
function setLines(place, lines) {
  while (place.children.length > lines.length) place.lastChild.remove();
  while (place.children.length < lines.length) place.append(el("span"));
  lines.forEach((line, number) => setText(place.children[number], `${line}\n`));
}

const pause = (ms) => (ms > 0 ? new Promise((resolve) => setTimeout(resolve, Math.ceil(ms))) : undefined);
