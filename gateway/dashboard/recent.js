// The list that the user chose: its filters, its page, and how far the page has to read for it.

import { listAddress } from "./address.js";
import { byId, el, setText } from "./dom.js";
import { clock, count, readable } from "./format.js";
import { createdMs, newestFirst } from "./history.js";
import { fromMs, isFiltered, isGet, isLocal, LABEL_PATTERN, MOST_LABEL, MOST_PATH, NAMES, passes, STATES, storeQuery } from "./filters.js";
import { PAGE } from "./lists.js";
import { REASONS } from "./reasons.js";

const SEARCH = 500; // tasks that one search looks through
const FIELDS = NAMES.filter((name) => name !== "state"); // of the form
const TIMES = ["from", "until"];

export class RecentList {
  #filters = {};
  #range = "";
  #anchors = [null]; // the task before each page up to the one that is shown
  #depth = SEARCH;
  #last = null; // the last task of the page that is shown
  #read = 0; // how many tasks of the list the page has read
  wantedOlder = 0; // so many older tasks are wanted

  // `tasks` is the history. `onChange()` is called when other tasks are to be shown, `onFilters(filters)` when the user
  // chooses other filters.
  constructor(tasks, onChange, onFilters) {
    this.tasks = tasks;
    this.onChange = onChange;
    this.onFilters = onFilters;
    byId("state").append(...STATES.map((state) => el("option", {}, state)));
    byId("filter-reason").append(...Object.keys(REASONS).map((reason) => el("option", {}, reason)));
    Object.assign(byId("filter-label"), { pattern: LABEL_PATTERN, maxLength: MOST_LABEL });
    byId("filter-path").maxLength = MOST_PATH;
    byId("state").addEventListener("change", ({ target }) => this.#set({ state: target.value }));
    byId("filter-reason").addEventListener("change", () => this.#apply());
    for (const name of ["label", "path", "from", "until"]) byId(`filter-${name}`).addEventListener("blur", () => this.#apply());
    byId("filters").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#apply();
    });
    for (const id of ["clear-filters", "clear-here"]) byId(id).addEventListener("click", () => this.#clear());
    byId("gets").addEventListener("click", () => this.#set({ gets: this.#filters.gets ? "" : "shown" }));
    byId("older").addEventListener("click", () => this.#goTo([...this.#anchors, this.#last]));
    byId("newer").addEventListener("click", () => this.#goTo(this.#anchors.slice(0, -1)));
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
    this.tasks.choose(storeQuery(filters));
    this.onChange();
  }

  // Shows where in the list the page is. Returns {rows, hidden, isLoading}: the tasks to show, how many GET requests are
  // hidden, and whether there may be more rows soon.
  show(now) {
    const listed = this.tasks.listed();
    if (listed === null) return { rows: [], hidden: 0, isLoading: true };
    const anchor = this.#anchors.at(-1);
    const found = select(listed, this.#filters, anchor);
    this.#read = listed.read;
    this.#last = found.rows.at(-1) ?? null;
    this.wantedOlder = found.canSearch ? Math.max(this.#depth - this.#read, 0) : 0;
    this.#showPlace(anchor, found);
    setText(byId("found-note"), this.#foundInWords(listed, found, now));
    return { rows: found.rows, hidden: found.hidden, isLoading: !listed.hasBegun || this.wantedOlder > 0 };
  }

  #showPlace(anchor, { rows, hasOlder, canSearch }) {
    setText(byId("page-number"), this.wantedOlder && anchor && !rows.length ? "Loading…" : `Page ${this.#anchors.length}`);
    byId("newer").disabled = !anchor;
    byId("older").disabled = !hasOlder;
    byId("search-older").hidden = !canSearch || this.wantedOlder > 0;
  }

  // "3 of the 500 newest tasks, back to 12:31."
  #foundInWords({ read, oldest, isAtEnd, hasMore }, { number, isWhole }, now) {
    const isShort = number < PAGE && !isWhole;
    if (!isLocal(this.#filters) && !isShort) return "";
    const busy = this.wantedOlder ? " Loading older ones…" : "";
    const back = oldest === null || isAtEnd ? "" : clock(createdMs(oldest), now);
    if (this.tasks.isOwn) return back && `This gateway's own tasks are read back to ${back}.${busy}`;
    const { state, label } = storeQuery(this.#filters);
    const which = `${state ? `${state} ` : ""}tasks${label ? " with this label" : ""}`;
    const all = read.toLocaleString();
    const most = !isWhole && !hasMore ? " The page can hold no more." : "";
    return `${number.toLocaleString()} of ${isAtEnd ? `all ${all}` : `the ${all} newest`} ${which}${back && `, back to ${back}`}.${most}${busy}`;
  }

  #goDeeper() {
    this.#depth = this.#read + SEARCH;
    this.tasks.urge();
    this.onChange();
  }

  #goTo(anchors) {
    const isOlder = anchors.length > this.#anchors.length;
    this.#anchors = anchors;
    if (isOlder) this.#goDeeper();
    else this.onChange();
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
    const active = NAMES.filter((name) => filters[name]);
    byId("chips").replaceChildren(...active.map((name) => chip(name, filters, range)));
    byId("active").hidden = !active.length;
  }
}

// What a page of the list has, of `listed` (see History.listed), behind the task `anchor` (null: from the newest on).
//
// `rows`: the tasks of the page. `number`: how many pass the filters on all pages. `hidden`: how many GET requests would,
// too. `isWhole`: nothing older can pass. `hasOlder`: there is another page. `canSearch`: older tasks may fill this page.
function select(listed, filters, anchor) {
  const found = listed.tasks.filter(passes(filters));
  const shown = (filters.gets ? found : found.filter((task) => !isGet(task))).sort(newestFirst);
  const rest = anchor ? shown.filter((task) => newestFirst(task, anchor) > 0) : shown;
  const rows = rest.slice(0, PAGE);
  const isWhole = listed.isAtEnd || (listed.oldest !== null && createdMs(listed.oldest) < fromMs(filters));
  const isOpen = !isWhole && listed.hasMore;
  const hasHole = rows.length > 0 && !listed.isRead(rows.at(-1)); // older ones are known otherwise
  return {
    rows,
    number: shown.length,
    hidden: found.length - shown.length,
    isWhole,
    hasOlder: rest.length > PAGE || (rest.length === PAGE && isOpen),
    canSearch: isOpen && (rest.length < PAGE || hasHole),
  };
}

// A reason that this page does not know yet.
function addOption(reason) {
  const select = byId("filter-reason");
  if (![...select.options].some(({ value }) => value === reason)) select.append(el("option", {}, reason));
}

// One active filter: a link to the list without it.
function chip(name, filters, range) {
  const value = readable(TIMES.includes(name) ? filters[name].replace("T", " ") : filters[name]);
  const href = listAddress({ ...filters, [name]: "" }, range);
  const link = el("a", { href, class: "chip", "aria-label": `${name}: ${value}, remove this filter` });
  link.append(`${name}: `, el("bdi", {}, value), " ×");
  return el("li", {}, link);
}
