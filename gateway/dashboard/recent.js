// The list that the user chose: its filters, its page, and how far the page has to read for it.

import { listAddress } from "./address.js";
import { byId, el, setText } from "./dom.js";
import { clock, count, readable } from "./format.js";
import { createdMs, newestFirst, PAGE } from "./history.js";
import { fromMs, isFiltered, isGet, isLocal, NAMES, passes, storeQuery } from "./filters.js";
import { REASONS } from "./reasons.js";

const SEARCH = 500; // tasks that one search looks through
const FIELDS = ["label", "path", "reason", "from", "until"];

export class RecentList {
  #filters = {};
  #range = "";
  #anchors = [null]; // the task before each page up to the one that is shown
  #depth = SEARCH;
  #last = null; // of the page that is shown
  #loaded = 0;
  search = 0; // so many older tasks are wanted

  // `tasks` is the history. `onTurn()` is called when the user turns to another page, `onFilters(filters)` when the user
  // chooses others.
  constructor(tasks, onTurn, onFilters) {
    this.tasks = tasks;
    this.onTurn = onTurn;
    this.onFilters = onFilters;
    byId("filter-reason").append(...Object.keys(REASONS).map((reason) => el("option", {}, reason)));
    byId("state").addEventListener("change", ({ target }) => this.#set({ state: target.value }));
    byId("filter-reason").addEventListener("change", () => this.#apply());
    for (const name of ["label", "path", "from", "until"]) byId(`filter-${name}`).addEventListener("blur", () => this.#apply());
    byId("filters").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#apply();
    });
    for (const id of ["clear-filters", "clear-here"]) byId(id).addEventListener("click", () => this.#clear());
    byId("gets").addEventListener("click", () => this.#set({ gets: this.#filters.gets ? "" : "shown" }));
    byId("older").addEventListener("click", () => this.#turnTo([...this.#anchors, this.#last]));
    byId("newer").addEventListener("click", () => this.#turnTo(this.#anchors.slice(0, -1)));
    byId("search-older").addEventListener("click", () => this.#goDeeper());
  }

  get filters() {
    return this.#filters;
  }

  get isFiltered() {
    return isFiltered(this.#filters) || this.#anchors.length > 1;
  }

  // Shows another list, from its first page on.
  choose(filters, range) {
    this.#fill(filters, range);
    const isSame = JSON.stringify(filters) === JSON.stringify(this.#filters);
    if (isSame && range === this.#range) return;
    this.#range = range;
    if (!isSame) [this.#filters, this.#anchors, this.#depth] = [filters, [null], SEARCH];
    this.tasks.look(storeQuery(filters));
    this.onTurn();
  }

  // The rows to show, or null before the first answer. While the store is away (`isOwn`), all that the page knows.
  page(now, isOwn) {
    const listed = this.tasks.listed(isOwn);
    if (listed === null) return null;
    const found = listed.tasks.filter(passes(this.#filters));
    const shown = (this.#filters.gets ? found : found.filter((task) => !isGet(task))).sort(newestFirst);
    const anchor = this.#anchors.at(-1);
    const rest = anchor ? shown.filter((task) => newestFirst(task, anchor) > 0) : shown;
    const isWhole = listed.isAtEnd || (listed.oldest !== null && createdMs(listed.oldest) < fromMs(this.#filters));
    this.#loaded = listed.tasks.length;
    const isWanted = rest.length < PAGE && !isWhole && listed.hasMore;
    this.search = isWanted ? Math.max(this.#depth - this.#loaded, 0) : 0;
    const rows = rest.slice(0, PAGE);
    this.#last = rows.at(-1) ?? null;
    setText(byId("page-number"), this.search && anchor && !rows.length ? "Loading…" : `Page ${this.#anchors.length}`);
    byId("newer").disabled = !anchor;
    byId("older").disabled = rest.length < PAGE || (rest.length === PAGE && (isWhole || !listed.hasMore));
    byId("search-older").hidden = !isWanted || this.search > 0;
    setText(byId("found-note"), isOwn ? "" : this.#foundInWords(shown.length, listed, isWhole, now));
    const hidden = found.length - shown.length;
    return { rows, hidden, isSearching: this.search > 0 };
  }

  // "3 of the 500 newest tasks, back to 12:31."
  #foundInWords(number, { tasks, oldest, isAtEnd, hasMore }, isWhole, now) {
    const isShort = number < PAGE && !isWhole;
    if (!isLocal(this.#filters) && !isShort) return "";
    const { state, label } = storeQuery(this.#filters);
    const which = `${state ? `${state} ` : ""}tasks${label ? " with this label" : ""}`;
    const all = tasks.length.toLocaleString();
    const back = oldest === null || isAtEnd ? "" : `, back to ${clock(createdMs(oldest), now)}`;
    const most = !isWhole && !hasMore ? " The page can hold no more." : "";
    const busy = this.search ? " Loading older ones…" : "";
    return `${number.toLocaleString()} of ${isAtEnd ? `all ${all}` : `the ${all} newest`} ${which}${back}.${most}${busy}`;
  }

  #goDeeper() {
    this.#depth = this.#loaded + SEARCH;
    this.tasks.urge();
    this.onTurn();
  }

  #turnTo(anchors) {
    const isOlder = anchors.length > this.#anchors.length;
    this.#anchors = anchors;
    if (isOlder) this.#goDeeper();
    else this.onTurn();
  }

  // -- the form --

  #set(more) {
    this.onFilters({ ...this.#filters, ...more });
  }

  // Takes what the user has entered. A value that is none stays in its field and says so.
  #apply() {
    const entered = Object.fromEntries(FIELDS.map((name) => [name, byId(`filter-${name}`).value.trim()]));
    const isNew = FIELDS.some((name) => entered[name] !== (this.#filters[name] ?? ""));
    if (isNew && byId("filters").reportValidity()) this.#set(entered);
  }

  #clear() {
    this.onFilters(this.#filters.gets ? { gets: "shown" } : {});
    byId("h-recent").focus();
  }

  #fill(filters, range) {
    byId("state").value = filters.state ?? "";
    if (filters.reason && !REASONS[filters.reason]) addOption(filters.reason);
    for (const name of FIELDS) byId(`filter-${name}`).value = filters[name] ?? "";
    if (FIELDS.some((name) => filters[name])) byId("more-filters").open = true;
    byId("gets").setAttribute("aria-pressed", String(Boolean(filters.gets)));
    const active = Object.keys(NAMES).filter((name) => filters[name]);
    byId("chips").replaceChildren(...active.map((name) => chip(name, filters, range)));
    byId("active").hidden = !active.length;
  }
}

// A reason that this page does not know yet.
function addOption(reason) {
  const select = byId("filter-reason");
  if (![...select.options].some(({ value }) => value === reason)) select.append(el("option", {}, reason));
}

// One active filter: a link to the list without it.
function chip(name, filters, range) {
  const value = readable(filters[name].replace("T", name === "from" || name === "until" ? " " : "T"));
  const href = listAddress({ ...filters, [name]: "" }, range);
  const link = el("a", { href, class: "chip", "aria-label": `${NAMES[name]}: ${value}, remove this filter` });
  link.append(`${NAMES[name]}: `, el("bdi", {}, value), " ×");
  return el("li", {}, link);
}
