// What the fields of a task's document mean, and how the page names them. Pure.
//
// A field that an earlier version did not write into `extensions` is undefined; it counts like null.

import { bytes, readable } from "./format.js";

// A presumed loss: there is no word from the task's gateway, which may still run it. Earlier gateways do not tell.
export const isPresumed = (task) => task.extensions.is_presumed === true;
export const isInFlight = (task) => task.state === "PENDING" || task.state === "RUNNING" || isPresumed(task);
export const isWaiting = (task) => task.state === "PENDING" && task.extensions.queue_position != null;

// The words for it, everywhere on the page and on the command line.
export const NO_WORD = "no word from the task's gateway, which may still run it";
export const PRESUMED_NOTE = `lost?: ${NO_WORD}. Wait, cancel it, or send its request again: that begins a new attempt.`;

export const KEPT = "the gateway keeps the answer, or kept it until its time was over";
export const DETACHED = "the task does not need its client any more";
const NOT_KEPT = {
  deleted: "no, it was deleted",
  too_large: "no, it is too large (MAX_RESPONSE_BYTES)",
  no_room: "no, there was no room for it (MAX_KEPT_BYTES, MAX_STORED_RESPONSE_BYTES)",
};

// Whether the answer of a task is kept.
export function keptInWords(task) {
  const { response, response_bytes: size } = task.extensions;
  if (response == null) return "–";
  return response === "kept" ? `yes, ${bytes(size)}${isInFlight(task) ? " so far" : ""}` : (NOT_KEPT[response] ?? "no");
}

export const target = ({ method, path, query }) => readable(`${method} ${path}${query ? `?${query}` : ""}`);
export const position = ({ queue_position, queue_length }) => (queue_position == null ? "" : `position ${queue_position} of ${queue_length}`);

// Unix milliseconds of the end; null while there is none. When a presumed loss was written says nothing of its task.
export const endedMs = (task) => (isPresumed(task) ? null : (task.extensions.finished_ms ?? null));

// The next two are as on the command line: milliseconds from the hand-over to Ollama on. Null without a hand-over.
export const firstByteMs = ({ extensions }) => between(extensions.started_ms, extensions.first_byte_ms);

// Until the end, or until now; null after a presumed loss.
export const tookMs = (task, now) => between(task.extensions.started_ms, isInFlight(task) && !isPresumed(task) ? now : endedMs(task));

const between = (from, to) => (from == null || to == null ? null : to - from);
