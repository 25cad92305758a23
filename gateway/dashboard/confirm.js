// A button that asks for confirmation, over its own place, before it acts. Nothing beside it moves. A failure is told in the
// place of the question, which stays open for another try.

import { Away } from "./api.js";
import { announce, el, setText } from "./dom.js";

export class ConfirmButton {
  // words: the texts `ask`, `yes`, `no` and `doing`, and `what` the action is about. `act()` returns what to announce;
  // if it fails, the question says `failed`, with the cause.
  constructor(cell, words, act, failed) {
    this.words = words;
    this.act = act;
    this.failed = failed;
    this.ask = button(words.ask, `${words.ask} ${words.what}`, () => this.#show(true));
    this.yes = button(words.yes, `${words.yes} ${words.what}`, () => this.#send());
    this.no = button(words.no, `${words.no} ${words.what}`, () => this.#show(false));
    this.yes.className = "danger";
    this.problem = el("span", { class: "failure" });
    this.question = el("span", { class: "question" }, this.problem, this.yes, this.no);
    this.place = el("span", { class: "confirm" }, this.ask, this.question);
    cell.append(this.place);
    cell.addEventListener("keydown", (event) => event.key === "Escape" && !this.question.hidden && this.#leave(event));
    this.question.hidden = this.problem.hidden = true;
  }

  // The same button with another question, for example about another number of tasks.
  rename(ask, what) {
    if (this.words.ask === ask && this.words.what === what) return;
    this.words = { ...this.words, ask, what };
    setText(this.ask, ask);
    this.ask.setAttribute("aria-label", ask);
    for (const [made, text] of [[this.yes, this.words.yes], [this.no, this.words.no]]) made.setAttribute("aria-label", `${text} ${what}`);
  }

  // Takes the question back. The focus goes to the first button if the question had it.
  close() {
    const hadFocus = this.question.contains(document.activeElement);
    this.#open(false);
    if (hadFocus) this.ask.focus();
  }

  #leave(event) {
    event.preventDefault(); // else it would close the view of a task
    this.#show(false);
  }

  #show(isAsking) {
    this.#open(isAsking);
    (isAsking ? this.yes : this.ask).focus();
  }

  // The first button keeps its place while it cannot be seen.
  #open(isAsking, problem = "") {
    this.ask.classList.toggle("asked", isAsking);
    this.question.hidden = !isAsking;
    this.problem.hidden = !problem;
    setText(this.problem, problem);
  }

  async #send() {
    if (this.yes.getAttribute("aria-disabled")) return;
    this.yes.setAttribute("aria-disabled", "true");
    setText(this.yes, this.words.doing);
    try {
      announce(await this.act());
      this.close();
    } catch (error) {
      const problem = `${this.failed}: ${error instanceof Away ? "the gateway does not answer" : error.message}`;
      announce(problem);
      this.#open(true, problem);
    }
    this.yes.removeAttribute("aria-disabled");
    setText(this.yes, this.words.yes);
  }
}

function button(text, label, act) {
  const made = el("button", { type: "button", "aria-label": label }, text);
  made.addEventListener("click", act);
  return made;
}
