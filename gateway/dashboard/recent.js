// The list that the user chose: its filters, its page, and which list of the gateway that is.

import { byId, setText } from "./dom.js";
import { PAGE, path } from "./history.js";

export class RecentList {
  #filters = {};
  #cursors = [""]; // of the pages up to the one that is shown
  page = null; // the one that is shown
  isWanted = false; // the user waits for it

  // `onTurn()` is called when the user turns to another page, `onFilters(filters)` when the user chooses others.
  constructor(onTurn, onFilters) {
    this.onTurn = onTurn;
    byId("state").addEventListener("change", ({ target }) => onFilters({ ...this.#filters, state: target.value }));
    byId("older").addEventListener("click", () => this.#turnTo([...this.#cursors, this.page.next_cursor]));
    byId("newer").addEventListener("click", () => this.#turnTo(this.#cursors.slice(0, -1)));
  }

  // Shows another list, from its first page on.
  choose(filters) {
    byId("state").value = filters.state ?? "";
    if (JSON.stringify(filters) === JSON.stringify(this.#filters)) return;
    this.#filters = filters;
    this.#turnTo([""]);
  }

  // Null for the newest tasks of all states: the page requests those anyway.
  get path() {
    const { state } = this.#filters;
    const cursor = this.#cursors.at(-1);
    return state || cursor ? path({ limit: PAGE, state, cursor }) : null;
  }

  get isFiltered() {
    return Boolean(this.#filters.state) || this.#cursors.length > 1;
  }

  // Takes the answer to `path`.
  take(page) {
    this.isWanted = false;
    this.page = page;
    setText(byId("page-number"), `Page ${this.#cursors.length}`);
    byId("newer").disabled = this.#cursors.length === 1;
    byId("older").disabled = page.next_cursor === null;
  }

  #turnTo(cursors) {
    this.#cursors = cursors;
    this.isWanted = true;
    setText(byId("page-number"), "Loading…");
    this.onTurn();
  }
}
