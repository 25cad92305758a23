// A button that asks for confirmation, over its own place, before it acts. Nothing beside it moves.

import { Away } from "./api.js";
import { announce, el, setText } from "./dom.js";

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
    this.question = el("span", { class: "question" }, this.yes, this.no);
    this.place = el("span", { class: "confirm" }, this.ask, this.question);
    cell.append(this.place);
    cell.addEventListener("keydown", (event) => event.key === "Escape" && !this.question.hidden && this.#leave(event));
    this.question.hidden = true;
  }

  // The same button with another question, for example about another number of tasks.
  rename(ask, what) {
    if (this.words.ask === ask && this.words.what === what) return;
    this.words = { ...this.words, ask, what };
    setText(this.ask, ask);
    this.ask.setAttribute("aria-label", ask);
    for (const [made, text] of [[this.yes, this.words.yes], [this.no, this.words.no]]) made.setAttribute("aria-label", `${text} ${what}`);
  }

  close() {
    this.question.hidden = true;
    this.ask.classList.remove("asked");
  }

  #leave(event) {
    event.preventDefault(); // else it would close the view of a task
    this.#show(false);
  }

  // The first button keeps its place while it cannot be seen.
  #show(isAsking) {
    this.ask.classList.toggle("asked", isAsking);
    this.question.hidden = !isAsking;
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
