// What the end of a task means, and what its user can do next. docs/polling.md has the same in a table. Pure.

import { isPresumed, NO_WORD } from "./fields.js";

// What each reason means, as the end of a sentence.
export const REASONS = {
  upstream_status: "Ollama answered with a status other than 2xx",
  upstream_unavailable: "the gateway could not connect to Ollama; it may have been starting",
  upstream_error: "the connection to Ollama broke before its answer began",
  upstream_truncated: "the connection to Ollama broke inside the answer; Ollama may have died or been restarted",
  stream_incomplete: "the stream ended without its end event",
  stream_error: "the stream ended with an error event",
  client_disconnect: "the client closed its connection",
  cancelled: "a call cancelled it, by its id or its label; the gateway does not record whose",
  timeout: "a time limit was over",
  queue_full: "the queue was full, and a request of another key took its place",
  shutdown: "the gateway was stopped",
  lost: "its gateway was killed, or has been silent for too long",
  response_too_large: "its client had left, and its answer was too large to be kept",
  gateway_error: "the gateway refused it half-way, or the gateway itself failed",
};

// The next step after each.
export const NEXT_STEPS = {
  upstream_status: "With 400 or 404, correct the request: often the model is missing. With 5xx, try again, and read Ollama's log.",
  upstream_unavailable: "Try again after a few seconds.",
  upstream_error: "Try again once. If it repeats, read Ollama's log: often there is not enough memory.",
  upstream_truncated:
    "Try again: the client got only a part of the answer. If it repeats, read Ollama's log: often there is not enough memory.",
  stream_incomplete:
    "Try again: the client got only a part of the answer, and many clients do not notice. If the model repeats itself, change the prompt or the model's parameters.",
  stream_error: "Read the last event of the stream: it has the error, and the client has it.",
  client_disconnect:
    "If you did not want that, let the call outlive its client (X-Task-Keep: true), or raise the time limits of the client and of every proxy in between.",
  cancelled: "If it was not meant to be cancelled, send the request again.",
  timeout: "If Ollama was silent (UPSTREAM_IDLE_TIMEOUT_SEC), raise that setting or set it to 0: loading a model takes minutes. Otherwise give the request more time.",
  queue_full: "Try again after the time that the client's 429 names in Retry-After.",
  shutdown: "Try again when the next gateway is ready.",
  lost: "Send the request again.",
  response_too_large: "Raise MAX_RESPONSE_BYTES or MAX_KEPT_BYTES, or ask for a shorter answer.",
  gateway_error: "If the client's error names a fault of the request, correct the request. Otherwise report what the gateway's log says.",
};

// A timeout: what its message names -> [what it means, the next step].
const LIMITS = {
  "X-Task-Timeout": [
    "The limit that the client set for the whole call was over (X-Task-Timeout). Ollama may be well.",
    "Send a larger value, leave the field out, or ask for a shorter answer.",
  ],
  "X-Task-Start-Timeout": [
    "The request waited too long for its turn (X-Task-Start-Timeout).",
    "Try again later, or send a larger value.",
  ],
};

const PRESUMED_NEXT =
  "You can wait: if word comes, it appears here. You can cancel the task: that is done if its gateway speaks within a minute. " +
  "If you send its request again with the same id, a new attempt begins.";
const UNKNOWN = "This version of the page does not know this reason. The message above says more.";
const NO_TEXT = "The gateway did not keep Ollama's error: set ERROR_TEXT_BYTES to keep the beginning of such answers.";

// {means, next, text, note} of a task that failed or is presumed lost; else null. `text` is Ollama's own error, null if
// it is not known; `note` says why not, "" if there is nothing to say.
export function advice(task) {
  const { reason, error_text: text } = task.extensions;
  if (isPresumed(task)) return { means: `There is ${NO_WORD}.`, next: PRESUMED_NEXT, text: null, note: "" };
  if (!reason) return null;
  const limit = reason === "timeout" && Object.keys(LIMITS).find((name) => task.message.includes(name));
  const [means, next] = limit ? LIMITS[limit] : generally(reason);
  return { means, next, text: text || null, note: !text && task.message.includes("ERROR_TEXT_BYTES") ? NO_TEXT : "" };
}

function generally(reason) {
  if (!Object.hasOwn(REASONS, reason)) return [UNKNOWN, ""];
  return [sentence(REASONS[reason]), NEXT_STEPS[reason]];
}

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}
