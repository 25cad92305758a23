// Buttons that copy a text. On plain http a browser has no clipboard API except on the machine itself: then the text is
// put into a field, selected and copied from there; if that fails, too, it stays selected for the user's own Ctrl+C.

import { announce, el } from "./dom.js";

const SHOWN_MS = 2000;

export class CopyButton {
  #field = null;
  #timer = 0;

  // `text()` is what the button copies.
  constructor(button, text) {
    this.button = button;
    this.text = text;
    this.name = button.textContent;
    button.addEventListener("click", () => this.#copy());
  }

  // Forgets an earlier copy.
  reset() {
    clearTimeout(this.#timer);
    this.#field?.remove();
    this.#field = null;
    this.button.textContent = this.name;
  }

  async #copy() {
    this.reset();
    const text = this.text();
    if ((await byClipboard(text)) || this.#byField(text)) return this.#say("Copied");
    this.button.textContent = "Press Ctrl+C";
    announce("The text is selected. Press Ctrl+C to copy it.");
  }

  #say(words) {
    this.button.textContent = words;
    announce(words);
    this.#timer = setTimeout(() => (this.button.textContent = this.name), SHOWN_MS);
  }

  #byField(text) {
    const field = el("textarea", { class: "copied", readonly: "", rows: 1, "aria-label": "The text to copy" });
    field.value = text;
    this.#field = field;
    this.button.after(field);
    field.select();
    if (!document.execCommand("copy")) return false;
    this.reset();
    this.button.focus();
    return true;
  }
}

async function byClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // there is none here, or the browser does not permit it
  }
}
