// Requests what the page shows again and again, with the ETag of the last answer. Notices whether the gateway answers.

import { Away, Refused } from "./api.js";
import { clock } from "./format.js";

const MOST_KNOWN = 12;

export class Source {
  #known = new Map(); // path -> the last answer, for its ETag
  #lastAnswerMs = null;

  // `onAnswer()`; `onAway(text)`: the gateway does not answer; `onKey()`: it does not accept the key, or wants one.
  constructor(api, { onAnswer, onAway, onKey }) {
    this.api = api;
    this.tell = { onAnswer, onAway, onKey };
  }

  // As Api.get. `isOnce`: the page asks for this only once, or wants it even if it is the same. Throws Away and Refused.
  async ask(url, { isOnce = false, ...options } = {}) {
    const { keyNumber } = this.api;
    try {
      const answer = await this.api.get(url, { known: isOnce ? null : (this.#known.get(url) ?? null), ...options });
      this.#remember(url, isOnce ? null : answer);
      this.#lastAnswerMs = Date.now();
      this.tell.onAnswer();
      return answer;
    } catch (error) {
      if (error instanceof Away) this.tell.onAway(this.#inWords(error));
      if (error instanceof Refused && error.status === 401 && keyNumber === this.api.keyNumber) this.tell.onKey();
      throw error;
    }
  }

  #remember(url, answer) {
    this.#known.delete(url); // keeps the order of use
    if (answer !== null) this.#known.set(url, answer);
    if (this.#known.size > MOST_KNOWN) this.#known.delete(this.#known.keys().next().value);
  }

  #inWords(error) {
    const since = this.#lastAnswerMs === null ? "" : ` The page shows the state of ${clock(this.#lastAnswerMs, Date.now())}.`;
    return `The gateway does not answer (${error.message}).${since} The page keeps trying.`;
  }
}
