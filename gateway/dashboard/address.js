// The address of what the page shows, in the fragment of its URL: a task, or the list with its filters, or the API. Pure.
//
//   #/                                  the list
//   #/?state=FAILED&label=nightly       the list with filters
//   #/tasks/ID                          one task
//   #api                                the gateway's own routes

import { LABEL_PATTERN, MOST_PATH, STATES } from "./filters.js";
import { DEFAULT_RANGE, RANGES } from "./ranges.js";

const TASK = /^#\/tasks\/([^?]+)/;
const LABEL = new RegExp(`^${LABEL_PATTERN}$`);

// What a filter may be; a value that is none counts as unset.
const FILTERS = {
  state: (value) => STATES.includes(value),
  label: (value) => LABEL.test(value),
  path: (value) => value.length <= MOST_PATH, // a part of the path
  reason: (value) => /^[a-z_]{1,64}$/.test(value),
  from: isMinute,
  until: isMinute,
  gets: (value) => value === "shown", // GET requests are hidden otherwise
};

// A local time as a browser's field for date and time has it: 2026-11-30T14:05. A browser reads 31 February as 3 March, so
// the value must also be what its date is written as.
function isMinute(value) {
  const ms = /^\d{4}-\d\d-\d\dT\d\d:\d\d$/.test(value) ? Date.parse(`${value}Z`) : NaN;
  return !Number.isNaN(ms) && new Date(ms).toISOString().startsWith(value);
}

// {part: "list" | "task" | "api", task: an id or "", filters: {name: value}, range}. Any text has a meaning.
export function parse(fragment) {
  if (fragment === "#api") return { part: "api", task: "", filters: {}, range: DEFAULT_RANGE };
  const task = TASK.exec(fragment);
  if (task) return { part: "task", task: decoded(task[1]), filters: {}, range: DEFAULT_RANGE };
  const query = new URLSearchParams(fragment.split("?")[1] ?? "");
  const given = Object.keys(FILTERS).filter((name) => query.get(name) && FILTERS[name](query.get(name)));
  const filters = Object.fromEntries(given.map((name) => [name, query.get(name)]));
  const range = query.get("range");
  return { part: "list", task: "", filters, range: Object.hasOwn(RANGES, range) ? range : DEFAULT_RANGE };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // no valid escape: the gateway refuses the id
  }
}

export const taskAddress = (id) => `#/tasks/${encodeURIComponent(id)}`;

// The fragment of the list with these filters; empty ones are left out.
export function listAddress(filters = {}, range = DEFAULT_RANGE) {
  const given = Object.entries({ ...filters, range: range === DEFAULT_RANGE ? "" : range }).filter(([, value]) => value);
  return given.length ? `#/?${new URLSearchParams(given)}` : "#/";
}
