// The facts of one task as a list of names and values. Only what has a value is shown. A row is renewed in its place, so
// that a selection in it survives.

import { CopyButton } from "./copy.js";
import { byId, el, setText, setTime, timeElement } from "./dom.js";
import { DETACHED, endedMs, isInFlight, isPresumed, keptInWords, NO_WORD, position, target } from "./fields.js";
import { bytes, readable } from "./format.js";
import { ago, moment } from "./moments.js";

// [name, text] or [name, {at: Unix milliseconds, isWhole}] or [name, {copy: text}]; a value that is empty is left out.
function factsOf(task) {
  const more = task.extensions;
  const at = (ms) => (ms == null ? "" : { at: ms });
  return [
    ["State", `${task.state}, ${isPresumed(task) ? `lost? ${NO_WORD}` : task.stage}`],
    ["Message", readable(task.message)],
    ["Reason", isPresumed(task) ? "lost?" : readable(more.reason ?? "")],
    ["Request", target(more)],
    ["Label", readable(more.label ?? "")],
    ["Queue", position(more)],
    ["Answer", more.status_code == null ? "" : `HTTP ${more.status_code}${more.stream ? ", a stream" : ""}`],
    ["Answer kept", more.response == null ? "" : keptInWords(task)],
    ["Detached", more.is_detached ? `yes: ${DETACHED}` : ""],
    ["Bytes", `${bytes(more.request_bytes)} up, ${bytes(more.response_bytes)} down`],
    ["Created", at(more.created_ms)],
    ["Ended", at(endedMs(task))],
    ["Heartbeat", isInFlight(task) && !isPresumed(task) ? { at: task.timestamp * 1000, isWhole: true } : ""],
    ["Attempt", more.attempt > 1 ? String(more.attempt) : ""],
    ["Gateway", readable(more.instance ?? "")],
    ["Owner", readable(more.owner ?? "")],
    ["Trace", more.trace_id ? { copy: readable(more.trace_id) } : ""],
  ].filter(([, value]) => value !== "");
}

export class Facts {
  #rows = new Map(); // name -> {dt, dd, fill}

  constructor() {
    this.list = byId("task-fields");
  }

  // `now` is by the gateway's clock.
  show(task, now) {
    const facts = factsOf(task);
    const names = new Set(facts.map(([name]) => name));
    for (const [name, row] of this.#rows) if (!names.has(name)) this.#remove(name, row);
    let next = this.list.firstChild;
    for (const [name, value] of facts) {
      const row = this.#rows.get(name) ?? this.#add(name, value);
      if (row.dt === next) next = row.dd.nextSibling;
      else for (const part of [row.dt, row.dd]) this.list.insertBefore(part, next);
      row.fill(value, now);
    }
  }

  clear() {
    this.#rows.clear();
    this.list.replaceChildren();
  }

  #add(name, value) {
    const [dd, fill] = typeof value === "string" ? textCell() : "at" in value ? timeCell() : copyCell(name);
    const row = { dt: el("dt", {}, name), dd, fill };
    this.#rows.set(name, row);
    return row;
  }

  #remove(name, { dt, dd }) {
    this.#rows.delete(name);
    dt.remove();
    dd.remove();
  }
}

function textCell() {
  const text = el("bdi");
  return [el("dd", {}, text), (value) => setText(text, value)];
}

function timeCell() {
  const [time, past] = [timeElement(0, ""), el("span", { class: "muted" })];
  const fill = ({ at, isWhole }, now) => {
    setTime(time, at, moment(at, isWhole));
    setText(past, ` · ${ago(at, now)}`);
  };
  return [el("dd", {}, time, past), fill];
}

function copyCell(name) {
  const text = el("bdi", { class: "code" });
  const button = el("button", { type: "button", class: "small", "aria-label": `Copy: ${name}` }, "Copy");
  new CopyButton(button, () => text.textContent);
  return [el("dd", {}, text, " ", button), ({ copy }) => setText(text, copy)];
}
