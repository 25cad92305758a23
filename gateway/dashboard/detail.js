// The dialog with the whole status of one task. While it is open and the task runs, it follows the task with `?wait`: one
// request at a time, which ends with the dialog, so that it takes one of the browser's few connections and no more.

import { Away, Refused } from "./api.js";
import { KeptAnswer } from "./answer.js";
import { byId, el, setText } from "./dom.js";
import { readable } from "./format.js";
import { isInFlight, isPresumed, isWaiting, later } from "./history.js";
import { Pace } from "./poller.js";
import { describe } from "./tasks.js";

const WAIT_SECONDS = 25;
const LONGER_MS = 10_000; // longer than the gateway waits
const EVERY_MS = 2000;
const AGAIN_MS = 5000; // after an error
const PRESUMED =
  "Lost? There is no word from the task's gateway; it may still run the task. You can wait: if word comes, it appears here. " +
  "You can cancel the task, in the list of tasks in flight: that is done if its gateway speaks within a minute. " +
  "If you send its request again with the same id, a new attempt begins.";

export class Detail {
  #opening = new AbortController();
  #closing = new AbortController();

  // `onNews(task)` gets every document that arrives. `onClosed()` is called when the user has closed the dialog.
  constructor(api, onNews, onClosed) {
    this.api = api;
    this.onNews = onNews;
    this.dialog = byId("detail");
    this.answer = new KeptAnswer(api, (id) => this.#renew(id));
    byId("detail-close").addEventListener("click", () => this.#leave(onClosed));
    this.dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      this.#leave(onClosed);
    });
    this.dialog.addEventListener("close", () => {
      this.#closing.abort();
      this.answer.close();
    });
    document.addEventListener("visibilitychange", () => this.#followAgain());
  }

  // Requests the task and shows it, unless another one is opened meanwhile. Throws Away and Refused if there is nothing to show.
  async open(id) {
    this.#opening.abort();
    const { signal } = (this.#opening = new AbortController());
    try {
      const known = await this.api.get(statusPath(id), { signal });
      if (!signal.aborted) this.#open(id, known);
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }

  #open(id, known) {
    this.known = known;
    this.pace = new Pace(EVERY_MS);
    byId("detail-id").textContent = id;
    this.#show(known.body);
    if (!this.dialog.open) this.dialog.showModal();
    this.#followAgain();
  }

  #leave(onClosed) {
    this.close();
    onClosed();
  }

  close() {
    this.#opening.abort();
    this.dialog.close();
  }

  // Takes a version that came from a list.
  refresh(best) {
    if (!this.dialog.open) return;
    const task = best(this.known.body);
    const known = this.known.body;
    if (task !== known && later(known, task) === task) this.#draw(task);
  }

  #followAgain() {
    this.#closing.abort();
    this.#closing = new AbortController();
    if (this.dialog.open && !document.hidden) this.#follow(this.#closing.signal);
  }

  async #follow(signal) {
    while (!signal.aborted && isInFlight(this.known.body)) {
      let restMs = AGAIN_MS;
      try {
        restMs = await this.#askOnce(signal);
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof Away || error instanceof Refused)) reportError(error);
        setText(byId("detail-note"), inWords(error));
      }
      if (restMs > 0) await pause(restMs);
    }
  }

  // Waits for another event of the task. Returns how long to pause before the next question.
  async #askOnce(signal) {
    const { known } = this;
    const askedAt = performance.now();
    const path = `${statusPath(known.body.task_id)}?wait=${WAIT_SECONDS}`;
    const news = await this.api.get(path, { known, signal, timeoutMs: WAIT_SECONDS * 1000 + LONGER_MS });
    if (signal.aborted) return 0;
    if (news === known) this.#keep();
    else this.#take(news);
    return this.pace.restMs(performance.now() - askedAt, news.body.event_id !== known.body.event_id);
  }

  #take(news) {
    this.known = news;
    this.#show(news.body);
  }

  // There is nothing new: leaves what is shown, which may come from a later list, and removes an earlier error.
  #keep() {
    setText(byId("detail-note"), note(this.known.body));
    this.onNews(this.known.body);
  }

  // Requests the same task again, after something was done to it.
  async #renew(id) {
    const news = await this.api.get(statusPath(id));
    if (!this.dialog.open || this.known.body.task_id !== id) return;
    this.#take(news);
  }

  #show(task) {
    this.#draw(task);
    this.onNews(task);
  }

  #draw(task) {
    setText(byId("detail-note"), note(task));
    const rows = describe(task, this.api.now()).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, el("bdi", {}, value))]);
    byId("detail-fields").replaceChildren(...rows);
    this.answer.show(task);
    setText(byId("detail-document"), JSON.stringify(task, null, 2).split("\n").map(readable).join("\n"));
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, Math.ceil(ms)));

function note(task) {
  if (!isInFlight(task)) return "";
  if (isPresumed(task)) return PRESUMED;
  return isWaiting(task) ? "The task waits for its turn. Changes appear here." : "The task is running. Changes appear here.";
}

export function statusPath(id) {
  return `/tasks/status/${encodeURIComponent(id)}`;
}

export function inWords(error) {
  if (error instanceof Away) return "The gateway does not answer.";
  return error instanceof Refused && error.status === 404 ? "There is no such task, or its status has expired." : error.message;
}
