// Which tasks the filters of the address select: what the gateway selects by, and what the page does itself. Pure.

export const NAMES = ["state", "label", "path", "reason", "from", "until"]; // in the address and on the page
export const STATES = ["PENDING", "RUNNING", "SUCCESS", "FAILED"];
export const MOST_LABEL = 128; // characters
export const LABEL_PATTERN = `[!-~]{1,${MOST_LABEL}}`; // as the gateway has it
export const MOST_PATH = 2048;
const MINUTE_MS = 60_000;

export const isGet = (task) => task.extensions.method === "GET";

// The gateway selects by state or by label, not by both: then by label.
export function storeQuery({ state, label }) {
  if (label) return { label };
  return state ? { state } : {};
}

// Whether the page selects among what it has loaded.
export const isLocal = ({ state, label, path, reason, from, until }) => Boolean((state && label) || path || reason || from || until);

export const isFiltered = (filters) => NAMES.some((name) => filters[name]);

// The first moment of the filter `from`; none without it.
export const fromMs = ({ from }) => (from ? Date.parse(from) : -Infinity);

// Whether a task passes all filters but the one for GET requests.
export function passes({ state, label, path, reason, from, until }) {
  const first = fromMs({ from });
  const end = until ? Date.parse(until) + MINUTE_MS : Infinity; // the minute itself belongs to it
  return (task) => {
    const more = task.extensions;
    return (
      (!state || task.state === state) &&
      (!label || more.label === label) &&
      (!path || String(more.path).includes(path)) &&
      (!reason || more.reason === reason) &&
      more.created_ms >= first &&
      more.created_ms < end
    );
  };
}
