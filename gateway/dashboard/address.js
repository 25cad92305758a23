// The address of what the page shows, in the fragment of its URL: a task, or the list with its filters, or the API. Pure.
//
//   #/                                  the list
//   #/?state=FAILED&label=nightly       the list with filters
//   #/tasks/ID                          one task
//   #api                                the gateway's own routes

const TASK = /^#\/tasks\/([^?]+)/;
const STATES = ["PENDING", "RUNNING", "SUCCESS", "FAILED"];
const RANGES = ["15m", "1h", "24h"]; // of the plots; the first is the default

// What a filter may be; a value that is none counts as unset.
const FILTERS = {
  state: (value) => STATES.includes(value),
  label: (value) => /^[!-~]{1,128}$/.test(value),
  path: (value) => value.length <= 2048, // a part of the path
  reason: (value) => /^[a-z_]{1,64}$/.test(value),
  from: isMinute,
  until: isMinute,
  gets: (value) => value === "shown", // GET requests are hidden otherwise
};

// A local time as a browser's field for date and time has it: 2026-11-30T14:05.
function isMinute(value) {
  return /^\d{4}-\d\d-\d\dT\d\d:\d\d$/.test(value) && !Number.isNaN(Date.parse(value));
}

// {part: "list" | "task" | "api", task: an id or "", filters: {name: value}, range}. Any text has a meaning.
export function parse(fragment) {
  if (fragment === "#api") return { part: "api", task: "", filters: {}, range: RANGES[0] };
  const task = TASK.exec(fragment);
  if (task) return { part: "task", task: decoded(task[1]), filters: {}, range: RANGES[0] };
  const query = new URLSearchParams(fragment.split("?")[1] ?? "");
  const given = Object.keys(FILTERS).filter((name) => query.get(name) && FILTERS[name](query.get(name)));
  const filters = Object.fromEntries(given.map((name) => [name, query.get(name)]));
  return { part: "list", task: "", filters, range: RANGES.includes(query.get("range")) ? query.get("range") : RANGES[0] };
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
export function listAddress(filters = {}, range = RANGES[0]) {
  const given = Object.entries({ ...filters, range: range === RANGES[0] ? "" : range }).filter(([, value]) => value);
  return given.length ? `#/?${new URLSearchParams(given)}` : "#/";
}
