// The kept answer of the task that is open: shows it as text, live while it runs; saves it as a file; deletes it.
// It is fetched, not linked to: a browser cannot send an API key when a user follows a link.

import { Away, Refused } from "./api.js";
import { ConfirmButton } from "./confirm.js";
import { byId, el, setText } from "./dom.js";
import { EventText } from "./events.js";
import { isInFlight, isPresumed, NO_WORD } from "./fields.js";
import { bytes, readableLines } from "./format.js";

const MOST_SHOWN = 256 * 1024; // bytes; more text makes a page slow
const NEAR_END = 40; // pixels: a reader who is so near the end wants to see what follows
const ENDINGS = { "application/json": "json", "text/event-stream": "txt", "text/plain": "txt" };

export class KeptAnswer {
  #abort = new AbortController(); // ends the request for the answer
  #request = ""; // the one whose answer is shown
  #fate = ""; // what the buttons are for
  #raw = ""; // what has been read, for the other form
  #isWhole = false; // whether that is all
  #events = null; // joins the pieces of a stream of events; null for any other answer
  #isText = true; // whether a stream of events is shown as text

  // `onDeleted(id)` is called when the answer has been deleted.
  constructor(api, onDeleted) {
    this.api = api;
    this.onDeleted = onDeleted;
    byId("answer-show").addEventListener("click", () => this.#read((answer) => this.#showText(answer)));
    byId("answer-as-text").addEventListener("click", () => this.#choose(true));
    byId("answer-as-raw").addEventListener("click", () => this.#choose(false));
    byId("answer-save").addEventListener("click", () => this.#read((answer) => this.#save(answer)));
  }

  // Takes a new version of the task.
  show(task) {
    const { attempt, response, is_detached: isDetached } = task.extensions;
    const request = `${attempt}:${task.task_id}`;
    const fate = `${response}:${isDetached}:${isInFlight(task)}`;
    this.task = task;
    if (request === this.#request && fate === this.#fate) return;
    if (request !== this.#request || response !== "kept") this.#reset();
    [this.#request, this.#fate] = [request, fate];
    this.#showButtons();
  }

  // Stops reading.
  close() {
    this.#request = "";
    this.#reset();
  }

  #reset() {
    this.#abort.abort();
    this.#say("");
    byId("answer-text").hidden = byId("answer-forms").hidden = true;
    byId("answer-text").replaceChildren();
    [this.#raw, this.#isWhole] = ["", false];
  }

  // Shows a stream of events in another form.
  #choose(isText) {
    this.#isText = isText;
    byId("answer-as-text").setAttribute("aria-pressed", String(isText));
    byId("answer-as-raw").setAttribute("aria-pressed", String(!isText));
    this.#events = new EventText();
    byId("answer-text").replaceChildren();
    this.#append(this.#raw, this.#isWhole);
  }

  // Adds to what is shown. While the task runs, it follows the end, unless the reader has scrolled up.
  #append(part, isLast = false) {
    const text = byId("answer-text");
    const isAtEnd = text.scrollHeight - text.scrollTop - text.clientHeight < NEAR_END;
    const piece = this.#events && this.#isText ? this.#events.push(part) + (isLast ? this.#events.end() : "") : part;
    text.append(readableLines(piece));
    if (isAtEnd && isInFlight(this.task)) text.scrollTop = text.scrollHeight;
  }

  #showButtons() {
    const isKept = this.task.extensions.response === "kept";
    byId("task-answer").hidden = !isKept;
    byId("answer-save").hidden = isInFlight(this.task);
    byId("answer-delete").replaceChildren();
    if (isKept) this.#addDelete();
  }

  #addDelete() {
    const { task_id: id, extensions } = this.task;
    const isLast = isInFlight(this.task) && extensions.is_detached;
    const yes = isLast ? "Really delete, and cancel the task" : "Really delete";
    const words = { ask: "Delete", yes, no: "Keep", doing: "Deleting…", what: `the answer of ${id}` };
    const place = el("span", { class: "line" });
    byId("answer-delete").append(place);
    new ConfirmButton(place, words, () => this.#delete(id), `The answer of ${id} was not deleted`);
  }

  async #delete(id) {
    await this.api.delete(path(id));
    await this.onDeleted(id);
    byId("h-task").focus(); // the button that had the focus is gone
    return `The answer of ${id} is deleted.`;
  }

  async #read(take) {
    this.#abort.abort();
    const { signal } = (this.#abort = new AbortController());
    this.#say("Asking for the answer…");
    try {
      const answer = await this.api.open(`${path(this.task.task_id)}?wait=0`, signal);
      if (answer.headers.has("ETag")) await take(answer);
      else this.#say("The answer has not begun.");
    } catch (error) {
      if (signal.aborted) return;
      byId("answer-text").hidden = byId("answer-text").textContent === "";
      this.#say(inWords(error, this.task));
    }
  }

  async #showText(answer) {
    const text = byId("answer-text");
    text.replaceChildren();
    text.hidden = false;
    [this.#raw, this.#isWhole] = ["", false];
    this.#events = typeOf(answer) === "text/event-stream" ? new EventText() : null;
    byId("answer-forms").hidden = this.#events === null;
    this.#say(isInFlight(this.task) ? "The answer so far. What follows appears here." : "");
    this.#isWhole = await this.#readPieces(answer);
    if (this.#isWhole) this.#append("", true);
    this.#say(this.#isWhole ? this.#endInWords() : `These are the first ${bytes(MOST_SHOWN)}. Save it as a file to see all of it.`);
  }

  // Reads until the end, or until enough is shown. Returns whether that is all.
  async #readPieces(answer) {
    const decoder = new TextDecoder();
    const reader = answer.body?.getReader();
    let left = MOST_SHOWN;
    while (reader && left > 0) {
      const { value, done } = await reader.read();
      if (done) break;
      const part = decoder.decode(value.subarray(0, left), { stream: true });
      this.#raw += part;
      this.#append(part);
      if (left === MOST_SHOWN) byId("answer-text").scrollIntoView({ block: "nearest" });
      left -= value.length;
    }
    if (left <= 0) this.#abort.abort();
    return left > 0;
  }

  #endInWords() {
    const isWithoutText = this.#events && this.#isText && byId("answer-text").textContent === "";
    return isWithoutText ? "This is the whole answer. Its events have no text: Raw shows them." : "This is the whole answer.";
  }

  async #save(answer) {
    const body = await answer.arrayBuffer();
    const address = URL.createObjectURL(new Blob([body], { type: "application/octet-stream" }));
    const name = `${this.task.task_id.replace(/[^\w.-]/g, "_")}.${ENDINGS[typeOf(answer)] ?? "bin"}`;
    el("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
    this.#say(`Saved ${bytes(body.byteLength)} as ${name}.`);
  }

  #say(text) {
    setText(byId("answer-note"), text);
  }
}

const typeOf = (answer) => (answer.headers.get("Content-Type") ?? "").split(";")[0].trim().toLowerCase();
const path = (id) => `/tasks/${encodeURIComponent(id)}/response`;

function inWords(error, task) {
  if (error instanceof Away) return "The gateway does not answer.";
  if (error instanceof Refused) return error.message;
  if (isPresumed(task)) return `The answer stops here: ${NO_WORD}.`;
  // When a connection breaks, browsers throw away what a script has not read yet.
  return "The answer was broken off. This page may lack its last bytes: on the command line, `response` writes all of them.";
}
