// The table of the models that Ollama has in memory.

import { byId, el, Rows, setClass, setText, svg } from "./dom.js";
import { age, bytes } from "./format.js";

const YEAR_MS = 365 * 86_400_000; // Ollama writes "never" as a date centuries away

export class ModelTable {
  constructor(api) {
    this.api = api;
    this.models = [];
    this.hasGpu = false; // that this machine had one when the gateway started
    const columns = [
      (cell, { name }) => setText(cell, name),
      (cell, { size_bytes }) => setText(cell, bytes(size_bytes)),
      fillShare,
      (cell, { context_length }) => setText(cell, context_length === null ? "–" : context_length.toLocaleString()),
      (cell, { expires_at }) => setText(cell, this.#left(expires_at)),
    ];
    this.rows = new Rows(byId("models"), columns, ({ name }) => name, null);
  }

  show(models) {
    this.models = models;
    this.rows.show(models);
    const split = named(models, ({ vram_share: share }) => share > 0 && share < 1);
    const unused = named(models, ({ vram_share: share, size_bytes: size }) => this.hasGpu && size > 0 && share === 0);
    const warnings = [];
    if (split) warnings.push(`A part of ${split} is on the CPU, because the GPU has too little memory. That makes the whole model slow.`);
    if (unused) warnings.push(`Wholly on the CPU although this machine has a GPU: ${unused}.`);
    const note = byId("models-note");
    setClass(note, warnings.length ? "note warning" : "note");
    setText(note, warnings.join(" ") || (models.length ? "" : "None. Ollama loads a model with the first request for it."));
  }

  // `gpu` is what /readyz says about the GPU, or null.
  showGpu(gpu) {
    const hasGpu = Boolean(gpu?.devices.length);
    if (hasGpu === this.hasGpu) return;
    this.hasGpu = hasGpu;
    if (this.models.length) this.show(this.models);
  }

  // `wanted` is what /readyz says about the models to pull at the start, or null.
  showMissing(wanted) {
    const note = byId("pull-note");
    note.hidden = !wanted?.missing.length;
    if (note.hidden) return;
    const now = wanted.pulling === null ? "" : ` Pulling ${wanted.pulling}${wanted.percent === null ? "" : `: ${wanted.percent} %`}.`;
    setText(note, `Still missing: ${wanted.missing.join(", ")}.${now}`);
  }

  // `why`: the end of a sentence.
  unknown(why) {
    this.models = [];
    this.rows.show([]);
    setClass(byId("models-note"), "note");
    setText(byId("models-note"), `Unknown, because ${why}.`);
  }

  tick() {
    this.rows.show(this.models);
  }

  #left(expires) {
    const leftMs = Date.parse(expires) - this.api.now();
    if (Number.isNaN(leftMs)) return "–";
    return leftMs > YEAR_MS ? "never" : leftMs <= 0 ? "now" : `in ${age(leftMs)}`;
  }
}

function named(models, isMeant) {
  return models.filter(isMeant).map(({ name }) => name).join(", ");
}

function fillShare(cell, { vram_share: share, size_vram_bytes: vram }) {
  if (!cell.firstChild) {
    const whole = svg("rect", { class: "whole", width: 100, height: 8, rx: 4 });
    const bar = svg("svg", { class: "bar", viewBox: "0 0 100 8", "aria-hidden": "true" }, whole, svg("rect", { height: 8, rx: 4 }));
    cell.append(bar, el("span"));
  }
  cell.firstChild.lastChild.setAttribute("width", share * 100);
  const percent = share > 0 && share < 1 ? Math.min(Math.max(Math.round(share * 100), 1), 99) : share * 100;
  setText(cell.lastChild, share === 0 ? "CPU only" : `${percent} %, ${bytes(vram)}`);
  setClass(cell.firstChild, share > 0 && share < 1 ? "bar split" : "bar");
}
