// The view of the list: what it requests and when, and what its parts show. The tasks themselves are in `History`.

import { listAddress } from "./address.js";
import { Away, Refused, statusPath } from "./api.js";
import { announce, byId, setText } from "./dom.js";
import { Empty } from "./empty.js";
import { isGet } from "./filters.js";
import { clock, getsInWords } from "./format.js";
import { History } from "./history.js";
import { LabelButton } from "./label.js";
import { ModelTable } from "./models.js";
import { NodeTable } from "./nodes.js";
import { Plots, windowStart } from "./plots.js";
import { Poller } from "./poller.js";
import { RecentList } from "./recent.js";
import { TaskTables, tasksInWords } from "./tasks.js";
import { Updated } from "./updated.js";

const LIST_MS = 2000;
const MODELS_MS = 5000;
const NODES_MS = 5000;
const OWN_LIST = "/tasks/status?scope=instance&limit=500"; // what this gateway itself knows, without the store
const TURNS_BETWEEN_STORE = 4; // while the store is away

export class Board {
  #tasks = new History();
  #range = "15m"; // of the plots
  #isShown = false;
  #hasList = false; // whether any list has come
  #isOwnOnly = false; // the store is away: the lists have what this gateway knows
  #turnsWithoutStore = 0;
  #whyOwn = ""; // what the gateway said instead of a list
  #listedAtMs = null; // when the last list of all gateways came
  #maySeeAll = false; // the key sees the gateways, and so the tasks of all owners
  #leftOut = 0; // malformed records on the newest page

  // `cancel(id)` ends a task. `ask` is Source.ask, `condition` the top of the page.
  constructor(api, ask, condition, cancel) {
    this.api = api;
    this.ask = ask;
    this.condition = condition;
    this.lists = new Poller(() => this.#askList(), LIST_MS);
    this.loaded = new Poller(() => this.#askModels(), MODELS_MS);
    this.peers = new Poller(() => this.#askNodes(), NODES_MS);
    this.polled = new Set([this.lists, this.loaded, this.peers]);
    this.plots = new Plots((filter) => this.#addressWith(filter));
    this.models = new ModelTable(api);
    this.nodes = new NodeTable();
    this.recent = new RecentList(this.#tasks, () => this.#showAndAsk(), (filters) => (location.hash = listAddress(filters, this.#range)));
    this.tables = new TaskTables(api, cancel);
    this.empty = new Empty();
    this.updated = new Updated(this.lists, (isPaused) => this.#pause(isPaused), () => this.#lookOnce());
    this.labels = new LabelButton(api, () => this.lists.hurry());
    for (const button of document.querySelectorAll("#ranges button"))
      button.addEventListener("click", () => (location.hash = listAddress(this.recent.filters, button.dataset.range)));
  }

  // Whether anything of a key's tasks was shown.
  get hasShown() {
    return this.#hasList;
  }

  // Shows the list with these filters, and requests it again and again until `stop`.
  start(filters, range) {
    this.#isShown = true;
    this.#chooseRange(range);
    this.recent.choose(filters, range);
    if (!this.updated.isPaused) for (const poller of this.polled) poller.start();
    this.show();
  }

  stop() {
    this.#isShown = false;
    for (const poller of this.polled) poller.stop();
  }

  // Another key may see the gateways that the last one did not.
  takeKey() {
    this.polled.add(this.peers);
  }

  hurry() {
    if (this.#isShown && !this.updated.isPaused) for (const poller of this.polled) poller.hurry();
  }

  // Ollama or the store has another condition.
  turn() {
    this.#turnsWithoutStore = -1; // the next list is the store's
    this.hurry();
  }

  // Takes a document from elsewhere.
  take(task) {
    this.#tasks.merge([task], this.api.now());
    this.show();
  }

  // Ages grow between two answers.
  tick() {
    if (!this.#isShown) return;
    this.updated.tick();
    if (this.updated.isPaused) return;
    this.tables.tick();
    this.models.tick();
    this.nodes.tick();
  }

  // -- asking --------------------------------------------------------------------------------------------------------

  async #askList() {
    this.#turnsWithoutStore += 1;
    const isOwnTurn = this.#isOwnOnly && this.#turnsWithoutStore % TURNS_BETWEEN_STORE !== 0;
    await this.#renew(() => (isOwnTurn ? this.#askOwn() : this.#askStore(this.#nextList())));
  }

  async #renew(ask) {
    try {
      await ask();
      this.updated.take();
    } finally {
      this.show();
    }
  }

  #nextList() {
    const now = this.api.now();
    const isLive = this.#tasks.inFlight.some(({ stage }) => stage === "streaming");
    const sinceMs = windowStart(now, this.#range);
    return this.#tasks.nextList(now, { sinceMs, search: this.recent.search, isLive, isStoreOnly: this.#isOwnOnly });
  }

  async #askStore(list) {
    const now = this.api.now();
    try {
      const { body } = await this.ask(list.path, { isOnce: list.kind === "next" || list.isOwn });
      this.#tasks.take(list, body, this.api.now());
      if (list.name === "newest") this.#leftOut = body.skipped ?? 0;
      this.#hasList = true;
      if (!list.isOwn) this.#leaveOwn(now);
      await this.#lookForUnseen();
    } catch (error) {
      if (error instanceof Refused && error.status === 503) return this.#askOwn(error);
      this.#sayUnlisted(error, error);
      throw error;
    }
  }

  // The store is away, and `why`: shows what this gateway itself knows.
  async #askOwn(why = null) {
    try {
      const { body } = await this.ask(OWN_LIST);
      this.#tasks.merge(body.items, this.api.now());
      this.#isOwnOnly = this.#hasList = true;
      this.condition.problem("lists", "");
      if (why) this.#whyOwn = why.message;
      if (why) this.condition.problem("others", `Tasks of other gateways cannot be listed: ${why.message}`);
    } catch (error) {
      this.#sayUnlisted(error, why ?? error);
      throw error;
    }
  }

  #sayUnlisted(error, why) {
    if (error instanceof Refused && error.status !== 401) this.condition.problem("lists", `Tasks cannot be listed: ${why.message}`);
  }

  #leaveOwn(now) {
    this.#isOwnOnly = false;
    this.#turnsWithoutStore = 0;
    this.#listedAtMs = now;
    for (const name of ["lists", "others"]) this.condition.problem(name, "");
  }

  async #lookForUnseen() {
    for (const id of this.#tasks.unseen(this.api.now())) {
      try {
        const { body } = await this.api.get(statusPath(id));
        this.#tasks.merge([body], this.api.now());
      } catch (error) {
        if (!(error instanceof Refused) || error.status !== 404) return; // the next turn tries again
        this.#tasks.forgetTask(id);
      }
    }
  }

  async #askModels() {
    try {
      const { body } = await this.ask("/models/loaded");
      this.models.show(body.models);
    } catch (error) {
      if (!(error instanceof Refused || error instanceof Away)) throw error;
      this.models.unknown();
      if (error instanceof Away) throw error;
    }
  }

  // Only the key named `admin` may see the gateways, and an earlier gateway does not know the route.
  async #askNodes() {
    try {
      const { body } = await this.ask("/nodes");
      this.nodes.show(body.items);
      this.#maySeeAll = true;
    } catch (error) {
      if (!(error instanceof Refused) || ![403, 404].includes(error.status)) throw error;
      this.peers.stop();
      this.polled.delete(this.peers);
      this.nodes.hide();
      this.#maySeeAll = false;
    }
  }

  // -- showing -------------------------------------------------------------------------------------------------------

  show() {
    if (!this.#isShown) return;
    const now = this.api.now();
    const all = this.#tasks.inFlight;
    const shown = this.#withoutGets(all);
    this.tables.address = (filter) => this.#addressWith(filter);
    this.tables.showOwners(this.#maySeeAll && this.#tasks.since(0).some(({ extensions }) => extensions.owner != null));
    if (this.#tasks.hasNewest || this.#isOwnOnly) this.tables.showInFlight(all, shown, document.body.classList.contains("stale"));
    this.#showRecent(now);
    this.labels.show(this.recent.filters.label ?? "", all);
    document.title = `${this.updated.mark}${shown.length ? `(${shown.length}) ` : ""}Ollama Gateway`;
    this.updated.tick();
    this.showPlots();
  }

  #withoutGets(tasks) {
    return this.recent.filters.gets ? tasks : tasks.filter((task) => !isGet(task));
  }

  #showRecent(now) {
    const page = this.recent.page(now, this.#isOwnOnly);
    const isLoading = page === null || (page.isSearching && !page.rows.length);
    const isAway = !this.#isOwnOnly && page === null && this.condition.has("lists");
    const emptyKind = isAway ? "away" : isLoading ? "loading" : this.recent.isFiltered ? "filtered" : "nothing";
    const { rows, hidden } = page ?? { rows: [], hidden: 0 };
    const nothing = this.empty.show(rows.length ? "" : emptyKind, { hasKey: this.api.hasKey, hidden });
    this.tables.showRecent(rows, nothing, this.#leftOut, hidden);
    setText(byId("own-note"), this.#isOwnOnly ? this.#ownInWords(now) : "");
  }

  #ownInWords(now) {
    const cause = this.#whyOwn.includes("rebuilt") ? "The list is being rebuilt." : "The store is down.";
    const others = this.#listedAtMs === null ? "" : ` Those of other gateways are as they were at ${clock(this.#listedAtMs, now)}.`;
    return `${cause} These are the tasks that this gateway itself knows.${others}`;
  }

  showPlots() {
    if (!this.#isShown || (!this.#tasks.hasNewest && !this.#isOwnOnly)) return;
    const now = this.api.now();
    const start = windowStart(now, this.#range);
    const all = this.#tasks.since(start);
    const drawn = this.#withoutGets(all);
    this.plots.draw(drawn, now, this.#range);
    const gapMs = this.#isOwnOnly ? null : this.#tasks.gapBefore(start);
    const notes = [
      `Drawn from ${tasksInWords(drawn.length)}.`,
      getsInWords(all.length - drawn.length),
      gapMs === null ? "" : `The page knows all from ${clock(gapMs, now)} on; of the time before, only some.`,
      this.#isOwnOnly ? this.#ownInWords(now) : this.#tasks.isWalking(start) ? "Loading older ones." : "",
    ];
    setText(byId("plots-note"), notes.map((note) => note.trim()).filter(Boolean).join(" "));
  }

  // -- what the user chooses -----------------------------------------------------------------------------------------

  // The list that is shown, with one more filter.
  #addressWith(filter) {
    return listAddress({ ...this.recent.filters, ...filter }, this.#range);
  }

  #showAndAsk() {
    this.show();
    if (this.updated.isPaused) this.#askList().catch(() => {}); // the user wants this list; what is wrong is on top
    else this.lists.hurry();
  }

  #chooseRange(range) {
    for (const button of document.querySelectorAll("#ranges button")) button.setAttribute("aria-pressed", String(button.dataset.range === range));
    if (range === this.#range) return;
    this.#range = range;
    this.#tasks.readAgain();
  }

  #pause(isPaused) {
    for (const poller of this.polled) isPaused ? poller.stop() : poller.start();
    if (isPaused) announce("Paused.");
    else this.hurry();
    this.show();
  }

  // Requests the newest tasks once, while the page is paused. Returns how many the page did not know; null after a failure.
  async #lookOnce() {
    const before = new Set(this.#tasks.since(0).map(({ task_id: id }) => id));
    try {
      await this.#renew(() => this.#askStore(this.#tasks.newestList(this.api.now())));
      return this.#tasks.since(0).filter(({ task_id: id }) => !before.has(id)).length;
    } catch {
      return null; // what is wrong is on top
    }
  }
}
