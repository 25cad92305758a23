// When to ask again. `Poller` repeats a request while the page is visible: slower and slower while it fails, and never in
// a hidden tab. `Pace` is for questions that the gateway answers when there is news.

import { Away, Refused } from "./api.js";

const LONGEST_MS = 30_000;
const MOST_AT_ONCE = 3;

export class Poller {
  #timer = 0;
  #isAsking = false;
  #isWanted = false;
  #startedAt = -Infinity;

  // `ask` is an async function. Every error counts as a failure; errors other than Away and Refused are reported too.
  constructor(ask, everyMs) {
    this.ask = ask;
    this.everyMs = everyMs;
    this.isOn = false;
    this.failures = 0;
    this.nextAt = 0; // by Date.now()
    document.addEventListener("visibilitychange", () => this.#plan(this.#restMs()));
  }

  start() {
    if (this.isOn) return;
    this.isOn = true;
    this.#plan(this.#restMs());
  }

  stop() {
    this.isOn = false;
    clearTimeout(this.#timer);
  }

  // For a user's action: asks at once, then as usual.
  hurry() {
    if (this.#isAsking) this.#isWanted = true;
    else this.#plan(0);
  }

  #restMs() {
    return Math.max(this.#startedAt + this.everyMs - Date.now(), 0);
  }

  #plan(ms) {
    clearTimeout(this.#timer);
    if (!this.isOn || document.hidden || this.#isAsking) return;
    this.nextAt = Date.now() + ms;
    this.#timer = setTimeout(() => this.#turn(), ms);
  }

  async #turn() {
    this.#isAsking = true;
    this.#startedAt = Date.now();
    try {
      await this.ask();
      this.failures = 0;
    } catch (error) {
      this.failures += 1;
      if (!(error instanceof Away || error instanceof Refused)) reportError(error);
    }
    this.#isAsking = false;
    const delayMs = Math.min(this.everyMs * 2 ** this.failures, LONGEST_MS);
    this.#plan(this.#isWanted ? 0 : delayMs);
    this.#isWanted = false;
  }
}

// The gateway may answer such a question before its time, with news or without: without, if too many clients wait.
export class Pace {
  #atOnce = 0;

  constructor(everyMs) {
    this.everyMs = everyMs;
  }

  // How long to pause after an answer that took so long. News may be followed by a question at once, a few times in a
  // row. Otherwise the next question begins `everyMs` after the one before at the soonest.
  restMs(tookMs, isNew) {
    if (tookMs >= this.everyMs) {
      this.#atOnce = 0;
      return 0;
    }
    if (isNew && this.#atOnce < MOST_AT_ONCE) {
      this.#atOnce += 1;
      return 0;
    }
    return this.everyMs - tookMs;
  }
}
