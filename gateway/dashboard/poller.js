// Repeats a request while the page is visible: slower and slower while it fails, and never in a hidden tab.

import { Away, Refused } from "./api.js";

const LONGEST_MS = 30_000;

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
