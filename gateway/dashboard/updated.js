// The line on top that says how old the page is, and the button that pauses it.

import { announce, byId, setText } from "./dom.js";
import { age, clock, count } from "./format.js";

export class Updated {
  isPaused = false;
  #lists; // the poller of the lists
  #atMs = null; // of the last list
  #awaySinceMs = null;

  // `onPause(isPaused)` is called when the user pauses the page or lets it go on; `look()` requests the newest tasks once
  // and returns how many of them are new.
  constructor(lists, onPause, look) {
    this.#lists = lists;
    byId("pause").addEventListener("click", () => {
      this.isPaused = !this.isPaused;
      byId("pause").setAttribute("aria-pressed", String(this.isPaused));
      byId("look").hidden = !this.isPaused;
      setText(byId("look"), "Show new ones");
      onPause(this.isPaused);
      this.tick();
    });
    byId("look").addEventListener("click", async () => {
      const number = await look();
      const text = number === null ? "The list could not be loaded." : number ? `${count(number, "new task", "new tasks")}.` : "Nothing is new.";
      setText(byId("look"), `${text} Look again`);
      announce(text);
    });
    document.addEventListener("visibilitychange", () => this.tick());
  }

  // A list has come.
  take() {
    this.#atMs = Date.now();
  }

  // The gateway answers, or not.
  reach(isReached) {
    this.#awaySinceMs = isReached ? null : (this.#awaySinceMs ?? Date.now());
  }

  tick() {
    setText(byId("updated"), this.#inWords());
  }

  // The beginning of the tab's title: empty while all goes on.
  get mark() {
    if (this.#awaySinceMs !== null) return "away · ";
    return this.isPaused ? "paused · " : "";
  }

  #inWords() {
    const now = Date.now();
    const last = this.#atMs === null ? "" : clock(this.#atMs, now);
    const next = Math.max(Math.round((this.#lists.nextAt - now) / 1000), 0);
    if (this.isPaused) return last ? `Paused. The page shows ${last}.` : "Paused.";
    if (document.hidden) return "Rests while its tab is hidden.";
    if (this.#awaySinceMs !== null) return `Away since ${clock(this.#awaySinceMs, now)}, next try in ${next} s.`;
    if (this.#lists.failures) return `${last ? `Updated ${last}` : "Not updated yet"}, next try in ${next} s.`;
    return this.#atMs === null ? "Not updated yet." : `Updated ${age(now - this.#atMs)} ago`;
  }
}
