// Two plots of the last 15 minutes, drawn as SVG without a library: requests per minute by state, and the time to first byte.

import { byId, el, setText, svg } from "./dom.js";
import { duration, minute } from "./format.js";
import { createdMs, WINDOW_MS } from "./history.js";

const MINUTE_MS = 60_000;
const MINUTES = WINDOW_MS / MINUTE_MS;
const HEIGHT = 170;
const EDGE = { left: 46, right: 8, top: 10, bottom: 24 };
const STATES = ["SUCCESS", "FAILED", "RUNNING", "PENDING"]; // from the bottom up
const WORDS = { SUCCESS: "ended well", FAILED: "failed", RUNNING: "running", PENDING: "waiting" };
const TIMES_MS = [1, 10, 100, 1000, 10_000, 60_000, 600_000];

// The first minute that is shown, as Unix milliseconds.
export function windowStart(now) {
  return (Math.floor(now / MINUTE_MS) - MINUTES + 1) * MINUTE_MS;
}

export class Plots {
  #drawn = "";

  // `tasks` are those created since windowStart(now).
  draw(tasks, now) {
    const start = windowStart(now);
    const minutes = Array.from({ length: MINUTES }, () => []);
    for (const task of tasks) minutes[Math.floor((createdMs(task) - start) / MINUTE_MS)]?.push(task);
    const counted = minutes.map(countStates);
    const times = minutes.map(firstBytes);
    const widths = ["plot-states", "plot-first-byte"].map((id) => byId(id).clientWidth);
    const drawn = JSON.stringify([start, counted, times, widths]);
    if (drawn === this.#drawn || !widths[0]) return;
    this.#drawn = drawn;
    byId("plot-states-text").replaceChildren(...legend(counted));
    setText(byId("plot-first-byte-text"), timesInWords(times.flat()));
    drawStates(byId("plot-states"), new Frame(widths[0], start), counted);
    drawTimes(byId("plot-first-byte"), new Frame(widths[1], start), times);
  }
}

function countStates(tasks) {
  return STATES.map((state) => tasks.filter((task) => task.state === state).length);
}

function firstBytes(tasks) {
  const known = tasks.map(({ extensions }) => extensions).filter(({ first_byte_ms }) => first_byte_ms != null);
  return known.map(({ first_byte_ms, created_ms }) => Math.max(first_byte_ms - created_ms, 0)).sort((a, b) => a - b);
}

// [state, text] for each state that occurs.
function sums(counted) {
  const all = STATES.map((state, index) => [state, counted.reduce((sum, counts) => sum + counts[index], 0)]);
  return all.filter(([, sum]) => sum).map(([state, sum]) => [state, `${sum.toLocaleString()} ${WORDS[state]}`]);
}

function statesInWords(counted) {
  return sums(counted).map(([, text]) => text).join(", ") || "none";
}

// The same, each with the colour of its bars.
function legend(counted) {
  const parts = sums(counted).flatMap(([state, text]) => [", ", el("span", { class: `key ${state.toLowerCase()}` }), text]);
  return parts.length ? parts.slice(1) : ["none"];
}

function timesInWords(times) {
  if (!times.length) return "no answer yet";
  const sorted = times.sort((a, b) => a - b);
  return `median ${duration(middle(sorted))}, slowest ${duration(sorted.at(-1))}`;
}

const middle = (sorted) => sorted[Math.floor((sorted.length - 1) / 2)];

// The plane that both plots are drawn on.
class Frame {
  constructor(width, start) {
    this.width = width;
    this.start = start;
    this.step = (width - EDGE.left - EDGE.right) / MINUTES;
    this.height = HEIGHT - EDGE.top - EDGE.bottom;
  }

  x(index) {
    return EDGE.left + index * this.step;
  }

  // `share` is 0 at the bottom and 1 at the top.
  y(share) {
    return EDGE.top + this.height * (1 - share);
  }

  at(index) {
    return minute(this.start + index * MINUTE_MS);
  }

  // ticks: [share, text]
  draw(holder, label, ticks, shapes) {
    const lines = ticks.flatMap(([share, text]) => [
      svg("line", { class: "grid", x1: EDGE.left, x2: this.width - EDGE.right, y1: this.y(share), y2: this.y(share) }),
      svg("text", { class: "axis end", x: EDGE.left - 6, y: this.y(share) + 4 }, text),
    ]);
    const names = [0, 5, 10, 14].map((index) => {
      const attributes = { class: index === 14 ? "axis end" : "axis", x: index === 14 ? this.width - EDGE.right : this.x(index), y: HEIGHT - 6 };
      return svg("text", attributes, this.at(index));
    });
    const size = { width: this.width, height: HEIGHT, viewBox: `0 0 ${this.width} ${HEIGHT}` };
    holder.replaceChildren(svg("svg", { ...size, role: "img", "aria-label": label }, ...lines, ...names, ...shapes));
  }
}

function drawStates(holder, frame, counted) {
  const most = Math.max(...counted.map((counts) => counts.reduce((a, b) => a + b)), 0);
  const top = roundUp(Math.max(most, 4));
  const bars = counted.flatMap((counts, index) => {
    let below = 0;
    return counts.flatMap((number, state) => {
      const bar = number ? [drawBar(frame, index, below / top, number / top, `${number} ${WORDS[STATES[state]]}`, state)] : [];
      below += number;
      return bar;
    });
  });
  const ticks = [0, top / 2, top].map((value) => [value / top, value.toLocaleString()]);
  frame.draw(holder, `Requests a minute: ${statesInWords(counted)}`, ticks, bars);
}

function drawBar(frame, index, below, share, text, state) {
  const place = { x: frame.x(index) + 1.5, width: Math.max(frame.step - 3, 2), y: frame.y(below + share), height: frame.height * share };
  return svg("rect", { ...place, class: STATES[state].toLowerCase() }, svg("title", {}, `${frame.at(index)}: ${text}`));
}

function roundUp(number) {
  const step = 10 ** Math.floor(Math.log10(number));
  return [2, 4, 10].map((factor) => factor * step).find((value) => value >= number);
}

function drawTimes(holder, frame, times) {
  const all = times.flat();
  const most = Math.max(...all, 1000);
  const top = TIMES_MS.find((ms) => ms >= most) ?? most;
  const share = (ms) => Math.log10(Math.max(ms, 1)) / Math.log10(top);
  const shapes = times.flatMap((sorted, index) => (sorted.length ? drawTime(frame, index, sorted, share) : []));
  const ticks = TIMES_MS.filter((ms) => ms <= top).map((ms) => [share(ms), shortTime(ms)]);
  frame.draw(holder, `Time to first byte: ${timesInWords(all)}`, ticks, shapes);
}

// The median as a dot, on a line from the fastest to the slowest.
function drawTime(frame, index, sorted, share) {
  const x = frame.x(index) + frame.step / 2;
  const text = `${frame.at(index)}: median ${duration(middle(sorted))}, ${duration(sorted[0])} to ${duration(sorted.at(-1))}, of ${sorted.length}`;
  const range = { class: "range", x1: x, x2: x, y1: frame.y(share(sorted[0])), y2: frame.y(share(sorted.at(-1))) };
  const dot = { class: "median", cx: x, cy: frame.y(share(middle(sorted))), r: 4 };
  return [svg("g", {}, svg("title", {}, text), svg("line", range), svg("circle", dot))];
}

const shortTime = (ms) => (ms < 1000 ? `${ms} ms` : ms < 60_000 ? `${ms / 1000} s` : `${ms / 60_000} min`);
