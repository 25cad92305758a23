// A button that asks for confirmation, in its own place, before it acts.

import { Away } from "./api.js";
import { announce, el } from "./dom.js";

export class ConfirmButton {
  // words: the texts `ask`, `yes`, `no` and `doing`, and `what` the action is about. `act()` returns what to announce;
  // if it fails, `failed` is announced, with the reason.
  constructor(cell, words, act, failed) {
    this.words = words;
    this.act = act;
    this.failed = failed;
    this.ask = button(words.ask, `${words.ask} ${words.what}`, () => this.#show(true));
    this.yes = button(words.yes, `${words.yes} ${words.what}`, () => this.#send());
    this.no = button(words.no, `${words.no} ${words.what}`, () => this.#show(false));
    this.yes.className = "danger";
    cell.append(this.ask, this.yes, this.no);
    cell.addEventListener("keydown", (event) => event.key === "Escape" && !this.yes.hidden && this.#leave(event));
    this.yes.hidden = this.no.hidden = true;
  }

  #leave(event) {
    event.preventDefault(); // inside a dialog, Escape would close the dialog
    this.#show(false);
  }

  #show(isAsking) {
    this.ask.hidden = isAsking;
    this.yes.hidden = this.no.hidden = !isAsking;
    (isAsking ? this.yes : this.ask).focus();
  }

  async #send() {
    if (this.yes.getAttribute("aria-disabled")) return;
    this.yes.setAttribute("aria-disabled", "true");
    this.yes.textContent = this.words.doing;
    try {
      announce(await this.act());
    } catch (error) {
      const why = error instanceof Away ? "the gateway does not answer" : error.message;
      announce(`${this.failed}: ${why}`);
      this.yes.title = why;
    }
    this.yes.removeAttribute("aria-disabled");
    this.yes.textContent = this.words.yes;
  }
}

function button(text, label, act) {
  const made = el("button", { type: "button", "aria-label": label }, text);
  made.addEventListener("click", act);
  return made;
}
