// Four plots drawn as SVG without a library, and the same numbers as a table: requests a minute by state, bytes a second,
// the waiting time and the time to first byte.

import { byId, el, setText, svg } from "./dom.js";
import { bytes, clock, duration, minute } from "./format.js";
import { createdMs } from "./history.js";
import { RANGES, windowStart } from "./ranges.js";

const MINUTE_MS = 60_000;
const HEIGHT = 150;
const EDGE = { left: 58, right: 8, top: 10, bottom: 24 };
const WORDS = { SUCCESS: "ended well", FAILED: "failed", RUNNING: "running", PENDING: "waiting" }; // from the bottom up
const STATES = Object.keys(WORDS);
const TIMES_MS = [1, 10, 100, 1000, 10_000, 60_000, 600_000, 6_000_000];
const PLOTS = ["states", "bytes", "wait", "first-byte"];

export class Plots {
  #drawn = "";

  // `address(filter)` is that of the list with a filter.
  constructor(address) {
    this.address = address;
  }

  // `tasks` are those created since windowStart(now, range). `earlier` had begun before and ran then: only their bytes count.
  draw(tasks, earlier, now, range) {
    const { bars, stepMs } = RANGES[range];
    const start = windowStart(now, range);
    const parts = Array.from({ length: bars }, () => []);
    for (const task of tasks) parts[Math.floor((createdMs(task) - start) / stepMs)]?.push(task);
    const numbers = {
      counted: parts.map(countStates),
      rates: spread([...tasks, ...earlier], start, stepMs, bars, now),
      waits: parts.map((part) => times(part, "created_ms", "started_ms")),
      firsts: parts.map((part) => times(part, "started_ms", "first_byte_ms")),
    };
    const widths = PLOTS.map((name) => byId(`plot-${name}`).clientWidth);
    const drawn = JSON.stringify([range, start, numbers, widths, this.address({})]);
    if (drawn === this.#drawn || !widths[0]) return;
    this.#drawn = drawn;
    this.#draw(numbers, new Axis(start, bars, stepMs, now), widths);
  }

  #draw({ counted, rates, waits, firsts }, axis, widths) {
    const frames = widths.map((width) => new Frame(width, axis));
    byId("plot-states-text").replaceChildren(...this.#legend(counted));
    const total = rates.reduce((a, b) => a + b, 0) / rates.length;
    const most = Math.max(...rates);
    setText(byId("plot-bytes-text"), most ? `${rate(total)} on average, ${rate(most)} at most` : "none");
    setText(byId("plot-wait-text"), timesInWords(waits.flat(), "none was handed to Ollama"));
    setText(byId("plot-first-byte-text"), timesInWords(firsts.flat(), "no answer yet"));
    drawStates(byId("plot-states"), frames[0], counted);
    drawRates(byId("plot-bytes"), frames[1], rates);
    drawTimes(byId("plot-wait"), frames[2], waits, "Waiting time");
    drawTimes(byId("plot-first-byte"), frames[3], firsts, "Time to first byte");
    const rows = counted.map((counts, index) => row(axis.at(index), counts, rates[index], waits[index], firsts[index]));
    byId("numbers").tBodies[0].replaceChildren(...rows.reverse());
  }

  // The sums with the colours of their bars; each is a link to the list of that state.
  #legend(counted) {
    const parts = sums(counted).flatMap(([state, text]) => [
      ", ",
      el("span", { class: `key ${state.toLowerCase()}` }),
      el("a", { href: this.address({ state }), title: `the list of all tasks that are ${state}` }, text),
    ]);
    return parts.length ? parts.slice(1) : ["none"];
  }
}

function countStates(tasks) {
  return STATES.map((state) => tasks.filter((task) => task.state === state).length);
}

// How long it took from one time of the tasks to another, where both are known; sorted.
function times(tasks, from, to) {
  const known = tasks.map(({ extensions }) => extensions).filter((more) => more[from] != null && more[to] != null);
  return known.map((more) => Math.max(more[to] - more[from], 0)).sort((a, b) => a - b);
}

// Bytes a second of each bar: the bytes of an answer, spread evenly from its first to its last one.
function spread(tasks, start, stepMs, bars, now) {
  const sent = Array(bars).fill(0);
  for (const { extensions } of tasks) {
    const { first_byte_ms: first, finished_ms: end, response_bytes: size } = extensions;
    if (first == null || !size) continue;
    const tookMs = Math.max((end ?? now) - first, 1);
    const last = Math.min(Math.floor((first + tookMs - start) / stepMs), bars - 1);
    for (let bar = Math.max(Math.floor((first - start) / stepMs), 0); bar <= last; bar += 1) {
      const inside = Math.min(first + tookMs, start + (bar + 1) * stepMs) - Math.max(first, start + bar * stepMs);
      sent[bar] += (size * Math.max(inside, 0)) / tookMs;
    }
  }
  const lengthMs = (bar) => (bar === bars - 1 ? Math.max(Math.min(now - start - bar * stepMs, stepMs), 1000) : stepMs);
  return sent.map((size, bar) => Math.round((size / lengthMs(bar)) * 1000));
}

const rate = (value) => `${bytes(Math.round(value))}/s`;

// [state, text] for each state that occurs.
function sums(counted) {
  const all = STATES.map((state, index) => [state, counted.reduce((sum, counts) => sum + counts[index], 0)]);
  return all.filter(([, sum]) => sum).map(([state, sum]) => [state, `${sum.toLocaleString()} ${WORDS[state]}`]);
}

const statesInWords = (counted) => sums(counted).map(([, text]) => text).join(", ") || "none";

function timesInWords(found, nothing) {
  if (!found.length) return nothing;
  const sorted = found.sort((a, b) => a - b);
  return `median ${duration(middle(sorted))}, p95 ${duration(at(sorted, 0.95))}, slowest ${duration(sorted.at(-1))}`;
}

const middle = (sorted) => sorted[Math.floor((sorted.length - 1) / 2)];
const at = (sorted, share) => sorted[Math.ceil(sorted.length * share) - 1];

// One row of the table.
function row(from, counts, sent, waits, firsts) {
  const time = (sorted) => (sorted.length ? duration(middle(sorted)) : "–");
  const texts = [...counts.map((number) => number.toLocaleString()), rate(sent), time(waits), time(firsts)];
  return el("tr", {}, el("th", { scope: "row" }, from), ...texts.map((text) => el("td", { class: "number" }, text)));
}

// What the bars of all plots stand for.
class Axis {
  constructor(start, bars, stepMs, now) {
    Object.assign(this, { start, bars, stepMs, now });
  }

  at(index) {
    const ms = this.start + index * this.stepMs;
    const isToday = new Date(ms).toDateString() === new Date(this.now).toDateString();
    return isToday ? minute(ms) : clock(ms, this.now).slice(0, -3);
  }
}

// The plane that a plot is drawn on.
class Frame {
  constructor(width, axis) {
    this.width = width;
    this.axis = axis;
    this.step = (width - EDGE.left - EDGE.right) / axis.bars;
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
    return this.axis.at(index);
  }

  // ticks: [share, text]
  draw(holder, label, ticks, shapes) {
    const lines = ticks.flatMap(([share, text]) => [
      svg("line", { class: "grid", x1: EDGE.left, x2: this.width - EDGE.right, y1: this.y(share), y2: this.y(share) }),
      svg("text", { class: "axis end", x: EDGE.left - 6, y: this.y(share) + 4 }, text),
    ]);
    const last = this.axis.bars - 1;
    const names = [0, Math.round(last / 3), Math.round((last * 2) / 3), last].map((index) => {
      const attributes = { class: index === last ? "axis end" : "axis", x: index === last ? this.width - EDGE.right : this.x(index), y: HEIGHT - 6 };
      return svg("text", attributes, minute(this.axis.start + index * this.axis.stepMs));
    });
    const size = { width: this.width, height: HEIGHT, viewBox: `0 0 ${this.width} ${HEIGHT}` };
    holder.replaceChildren(svg("svg", { ...size, role: "img", "aria-label": label }, ...lines, ...names, ...shapes));
  }

  bar(index, below, share, text, kind) {
    const place = { x: this.x(index) + 1.5, width: Math.max(this.step - 3, 2), y: this.y(below + share), height: this.height * share };
    return svg("rect", { ...place, class: kind }, svg("title", {}, `${this.at(index)}: ${text}`));
  }
}

function drawStates(holder, frame, counted) {
  const minutes = frame.axis.stepMs / MINUTE_MS;
  const most = Math.max(...counted.map((counts) => counts.reduce((a, b) => a + b)), 0) / minutes;
  const top = roundUp(Math.max(most, 4 / minutes));
  const bars = counted.flatMap((counts, index) => {
    let below = 0;
    return counts.flatMap((number, state) => {
      const share = number / minutes / top;
      const bar = number ? [frame.bar(index, below, share, `${number} ${WORDS[STATES[state]]}`, STATES[state].toLowerCase())] : [];
      below += share;
      return bar;
    });
  });
  const ticks = [0, top / 2, top].map((value) => [value / top, value.toLocaleString()]);
  frame.draw(holder, `Requests a minute: ${statesInWords(counted)}`, ticks, bars);
}

function drawRates(holder, frame, rates) {
  const most = Math.max(...rates, 1024);
  const unit = 1024 ** Math.floor(Math.log(most) / Math.log(1024));
  const top = roundUp(most / unit) * unit;
  const bars = rates.flatMap((value, index) => (value ? [frame.bar(index, 0, value / top, rate(value), "running")] : []));
  const ticks = [0, 0.5, 1].map((share) => [share, share ? rate(top * share) : "0"]);
  frame.draw(holder, `Bytes a second: ${byId("plot-bytes-text").textContent}`, ticks, bars);
}

function roundUp(number) {
  const step = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 4, 10].map((factor) => factor * step).find((value) => value >= number * 0.999_999);
}

function drawTimes(holder, frame, found, name) {
  const all = found.flat();
  const most = Math.max(...all, 1000);
  const top = TIMES_MS.find((ms) => ms >= most) ?? most;
  const share = (ms) => Math.log10(Math.max(ms, 1)) / Math.log10(top);
  const shapes = found.flatMap((sorted, index) => (sorted.length ? drawTime(frame, index, sorted, share) : []));
  const ticks = TIMES_MS.filter((ms) => ms <= top).map((ms) => [share(ms), shortTime(ms)]);
  frame.draw(holder, `${name}: ${timesInWords(all, "none")}`, ticks, shapes);
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
