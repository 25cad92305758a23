// The stages of one task: what each part of its time was spent on, and what never happened. Pure.
//
// A task waits until it is handed to Ollama, is forwarded until the first byte of the answer, and is streamed (or
// answered) until its end. Times are Unix milliseconds; a time that an earlier version did not write counts as missing.

import { isInFlight, isPresumed, NO_WORD } from "./fields.js";
import { bytes, duration } from "./format.js";

// {stages: [{kind, title, fromMs, toMs, isRunning, words, atMs, atWords}], end}. A stage that never happened has neither
// fromMs nor toMs. `now` is the end of the part that runs. For `end` see below.
export function stagesOf(task, now) {
  const more = task.extensions;
  const { created_ms: created, started_ms: started = null, first_byte_ms: first = null, finished_ms: finished = null } = more;
  const isOver = !isInFlight(task) || isPresumed(task);
  const last = isOver ? Math.max(finished ?? task.timestamp * 1000, created, started ?? 0, first ?? 0) : Math.max(now, created);
  const never = task.stage === "lost" ? UNKNOWN : NEVER;
  const stages = [
    waited({ created, started, first, last, isOver, never }),
    forwarded({ started, first, last, isOver, never }),
    answered({ first, last, isOver, never, more }),
  ];
  return { stages, end: endOf(task, created, last, isOver) };
}

const NEVER = { handed: "never handed to Ollama", answered: "no answer came from Ollama" };
const UNKNOWN = { handed: "not known to be handed to Ollama", answered: "no answer is known" }; // its gateway fell silent

const stage = (kind, title, fromMs, toMs, isRunning, words, atMs, atWords) => ({ kind, title, fromMs, toMs, isRunning, words, atMs, atWords });
const missing = (kind, title, words) => stage(kind, title, null, null, false, words, null, "");

function waited({ created, started, first, last, isOver, never }) {
  const until = started ?? first;
  if (until !== null) return stage("waited", "Waited", created, until, false, duration(until - created), created, "created");
  const words = isOver ? `${duration(last - created)}, ${never.handed}` : `${duration(last - created)} so far`;
  return stage("waited", isOver ? "Waited" : "Waits", created, last, !isOver, words, created, "created");
}

function forwarded({ started, first, last, isOver, never }) {
  if (started === null) return missing("forwarded", "Forwarded", isOver ? never.handed : "not yet");
  const at = [started, "handed to Ollama"];
  if (first !== null) return stage("forwarded", "Forwarded", started, first, false, `${duration(first - started)} until the first byte`, ...at);
  const words = `${duration(last - started)}${isOver ? `, ${never.answered}` : " so far, no byte yet"}`;
  return stage("forwarded", isOver ? "Forwarded" : "Is forwarded", started, last, !isOver, words, ...at);
}

function answered({ first, last, isOver, never, more }) {
  const titles = more.stream ? ["Streamed", "Streams"] : ["Answered", "Is answered"];
  if (first === null) return missing("streamed", more.stream ? "Streamed" : "Answered", isOver ? never.answered : "not yet");
  const words = `${duration(last - first)}${isOver ? "" : " so far"}, ${bytes(more.response_bytes ?? null)}`;
  return stage("streamed", titles[isOver ? 0 : 1], first, last, !isOver, words, first, "first byte");
}

// How it ended: {kind, title, words, atMs, atWords}; null while it goes on.
function endOf(task, created, last, isOver) {
  if (!isOver) return null;
  if (isPresumed(task)) return { kind: "presumed", title: "Lost?", words: NO_WORD, atMs: last, atWords: "presumed lost at" };
  return { kind: task.state === "SUCCESS" ? "success" : "failed", title: "Ended", words: endInWords(task, created, last), atMs: last, atWords: "at" };
}

function endInWords(task, created, last) {
  const { reason } = task.extensions;
  return [task.state, reason, `after ${duration(last - created)}`].filter(Boolean).join(", ");
}

// What a screen reader hears when a task comes to another stage.
export function stageInWords(task) {
  const { created_ms: created, finished_ms: finished } = task.extensions;
  if (isPresumed(task)) return `There is ${NO_WORD}.`;
  if (!isInFlight(task)) return `Ended: ${endInWords(task, created, Math.max(finished ?? task.timestamp * 1000, created))}.`;
  const words = { queued: "The task waits.", forwarding: "The task is with Ollama.", streaming: "The answer comes." };
  return words[task.stage] ?? "The task runs.";
}
