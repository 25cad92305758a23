// The table of the gateways that share the store. It is closed while there is one alone, and hidden if the key may not see it.

import { byId, el, Rows, setClass, setText } from "./dom.js";
import { age, clock, readable } from "./format.js";

const KINDS = { up: "success", draining: "pending", lost: "failed" }; // colours of states; the word says the same
const NOTES = {
  draining: "draining: it finishes its requests and takes no new ones.",
  lost: "lost: no word from it for three heartbeats. Its tasks may still run; they are marked “lost?”.",
};
const NONE = "–";
const word = (value) => readable(value ?? NONE);
const key = ({ instance, started_ms }) => `${instance} ${started_ms}`;

export class NodeTable {
  #nodes = [];
  #takenAt = 0; // by Date.now(): ages grow between two answers
  #isOpened = false; // it opens by itself once; then it is the user's

  constructor() {
    const columns = [
      fillName,
      fillState,
      (cell, node) => setText(cell, running(node)),
      (cell, { waiting }) => setText(cell, word(waiting)),
      (cell, { store }) => setText(cell, word(store)),
      fillModels,
      (cell, { age_sec }) => setText(cell, this.#lastWord(age_sec)),
    ];
    this.rows = new Rows(byId("nodes"), columns, key, byId("nodes-summary"));
  }

  show(nodes) {
    [this.#nodes, this.#takenAt] = [nodes, Date.now()];
    byId("nodes-panel").hidden = false;
    if (nodes.length > 1 && !this.#isOpened) byId("nodes-details").open = this.#isOpened = true;
    setText(byId("nodes-count"), inWords(nodes));
    this.rows.show(nodes);
    const states = new Set(nodes.map(({ state }) => state));
    setText(byId("nodes-note"), Object.keys(NOTES).filter((state) => states.has(state)).map((state) => NOTES[state]).join(" "));
  }

  hide() {
    byId("nodes-panel").hidden = true;
    this.#nodes = [];
    this.rows.show([]);
  }

  tick() {
    this.rows.show(this.#nodes);
  }

  #lastWord(seconds) {
    return typeof seconds === "number" ? `${age(seconds * 1000 + Date.now() - this.#takenAt)} ago` : NONE;
  }
}

// "3", or "3: 2 up, 1 lost" if not all are up: a closed table says it, too.
function inWords(nodes) {
  const states = nodes.map(({ state }) => word(state));
  if (states.every((state) => state === "up")) return String(nodes.length);
  const kinds = [...new Set(states)].map((kind) => `${states.filter((state) => state === kind).length} ${kind}`);
  return `${nodes.length}: ${kinds.join(", ")}`;
}

// MAX_RUNNING=0 bounds nothing.
const running = ({ running: number, max_running: bound }) => (bound ? `${word(number)} of ${word(bound)}` : `${word(number)}, no bound`);

function fillName(cell, { instance, version, started_ms }) {
  if (!cell.firstChild) cell.append(el("bdi", { class: "name" }), el("span", { class: "target" }));
  setText(cell.firstChild, readable(instance));
  const since = typeof started_ms === "number" ? `, since ${clock(started_ms, Date.now())}` : "";
  setText(cell.lastChild, `${word(version)}${since}`);
}

function fillState(cell, { state }) {
  if (!cell.firstChild) cell.append(el("span"));
  setText(cell.firstChild, word(state));
  setClass(cell.firstChild, `badge ${KINDS[state] ?? "pending"}`);
}

function fillModels(cell, { models }) {
  const names = Array.isArray(models) && models.length ? models.map(readable).join(", ") : NONE;
  if (!cell.firstChild) cell.append(el("bdi"));
  setText(cell.firstChild, names);
}
