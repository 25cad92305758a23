// Draws the stages of a task: a bar from its creation to its end, and below it the same facts as a list.

import { byId, el, setClass, setText, setTime, svg, timeElement } from "./dom.js";
import { readable } from "./format.js";
import { moment, timeOfDay } from "./moments.js";
import { stagesOf } from "./stages.js";

const HEIGHT = 26;
const LEAST = 3; // pixels of a part, so that a short one is seen
const LABELLED = 18; // pixels that the number of a part needs

export class Timeline {
  #drawn = null; // what the bar shows
  #text = ""; // the same as text, to find out whether it has changed

  constructor() {
    this.bar = byId("timeline");
    this.list = byId("stages");
    new ResizeObserver(() => this.#drawn && this.#drawBar(this.#drawn)).observe(this.bar);
  }

  // `now` is by the gateway's clock.
  draw(task, now) {
    const found = stagesOf(task, now);
    const text = JSON.stringify(found);
    if (text === this.#text) return; // the task has ended
    this.#text = text;
    this.#drawBar(found);
    const parts = found.end ? [...found.stages, found.end] : found.stages;
    while (this.list.children.length > parts.length) this.list.lastChild.remove();
    while (this.list.children.length < parts.length) this.list.append(listItem());
    parts.forEach((part, index) => fill(this.list.children[index], part, index === 0));
  }

  clear() {
    [this.#drawn, this.#text] = [null, ""];
    this.bar.replaceChildren();
    this.list.replaceChildren();
  }

  #drawBar(found) {
    this.#drawn = found;
    const { stages, end } = found;
    const width = this.bar.clientWidth;
    if (!width) return;
    const parts = stages.map((part, index) => ({ ...part, number: index + 1 })).filter(({ fromMs }) => fromMs !== null);
    const widths = shares(parts.map(({ fromMs, toMs }) => toMs - fromMs), width);
    let x = 0;
    const drawn = parts.flatMap((part, index) => {
      const shapes = shapesOf(part, x, widths[index]);
      x += widths[index];
      return shapes;
    });
    if (end) drawn.push(svg("rect", { class: `end ${end.kind}`, x: width - LEAST, y: 0, width: LEAST, height: HEIGHT }));
    this.bar.replaceChildren(svg("svg", { width, height: HEIGHT, "aria-hidden": "true" }, HATCH(), ...drawn));
  }
}

// Marks the part that runs: without it only its colour would tell.
const HATCH = () =>
  svg("defs", {}, svg("pattern", { id: "hatch", width: 8, height: 8, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    svg("rect", { class: "hatch", width: 3, height: 8 })));

function shapesOf({ kind, number, isRunning }, x, width) {
  const place = { x, y: 0, width, height: HEIGHT };
  const shapes = [svg("rect", { class: `part ${kind}${isRunning ? " runs" : ""}`, ...place })];
  if (isRunning) shapes.push(svg("rect", { fill: "url(#hatch)", ...place }), svg("rect", { class: "running-edge", ...inset(place) }));
  if (width >= LABELLED) shapes.push(svg("text", { class: "part-number", x: x + width / 2, y: HEIGHT / 2 }, String(number)));
  return shapes;
}

const inset = ({ x, y, width, height }) => ({ x: x + 1, y: y + 1, width: Math.max(width - 2, 1), height: height - 2 });

// The widths of parts, at least LEAST each, together `width`.
function shares(lengths, width) {
  const whole = lengths.reduce((sum, length) => sum + length, 0) || 1;
  const widths = lengths.map((length) => Math.max((length / whole) * width, LEAST));
  const longest = widths.indexOf(Math.max(...widths));
  widths[longest] -= widths.reduce((sum, one) => sum + one, 0) - width;
  return widths;
}

function listItem() {
  const at = el("span", { class: "moment" }, el("span"), " ", timeElement(0, ""));
  return el("li", {}, el("span", { class: "key", "aria-hidden": "true" }), el("strong"), " ", el("span"), " ", at);
}

function fill(item, { kind, title, words, atMs, atWords, isRunning, fromMs }, isFirst) {
  const [key, name, facts, at] = item.children;
  setClass(item, [isRunning && "running", fromMs === null && "missing"].filter(Boolean).join(" "));
  setClass(key, `key ${kind}`);
  setText(name, `${title}:`);
  setText(facts, isRunning ? `${readable(words)} (now)` : readable(words));
  at.hidden = atMs === null;
  if (atMs === null) return;
  setText(at.firstElementChild, `· ${atWords}`);
  setTime(at.lastElementChild, atMs, isFirst ? moment(atMs) : timeOfDay(atMs));
}
