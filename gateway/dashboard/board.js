// The view of the list: what it requests and when, and what its parts show. The tasks themselves are in `History`.

import { listAddress } from "./address.js";
import { Away, Refused, statusPath } from "./api.js";
import { announce, byId, el, setText } from "./dom.js";
import { Empty } from "./empty.js";
import { isGet } from "./filters.js";
import { clock, getsInWords } from "./format.js";
import { History } from "./history.js";
import { LabelButton } from "./label.js";
import { ModelTable } from "./models.js";
import { NodeTable } from "./nodes.js";
import { Plots } from "./plots.js";
import { Poller } from "./poller.js";
import { DEFAULT_RANGE, RANGES, windowStart } from "./ranges.js";
import { RecentList } from "./recent.js";
import { TaskTables, tasksInWords } from "./tasks.js";
import { Updated } from "./updated.js";

const LIST_MS = 2000;
const MODELS_MS = 5000;
const NODES_MS = 5000;
const STORE_EVERY = 4; // while the store is away, each fourth list is the store's

export class Board {
  #tasks = new History();
  #range = DEFAULT_RANGE; // of the plots
  #isShown = false;
  #hasList = false; // whether any list has come
  #sinceStore = 0; // lists requested since the last one of the store
  #whyOwn = ""; // what the gateway said instead of a list of the store
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
    this.recent = new RecentList(this.#tasks, () => this.#showAndAsk(), (filters) => this.#goTo(filters, this.#range));
    this.tables = new TaskTables(api, cancel);
    this.empty = new Empty();
    this.updated = new Updated(this.lists, (isPaused) => this.#pause(isPaused), () => this.#askNewest());
    this.labels = new LabelButton(api, () => this.lists.hurry());
    for (const [range, { button: text }] of Object.entries(RANGES)) {
      const button = el("button", { type: "button", "data-range": range }, text);
      button.addEventListener("click", () => this.#goTo(this.recent.filters, range));
      byId("ranges").append(button);
    }
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

  // Requests a list of the store at once: Ollama or the store has another condition.
  askStoreNext() {
    this.#sinceStore = STORE_EVERY - 1;
    this.hurry();
  }

  // The gateway answers, or not.
  reach(isReached) {
    this.updated.reach(isReached);
  }

  // Takes what /readyz says about the models and the GPU.
  showModels({ models, gpu }) {
    if (this.updated.isPaused) return;
    this.models.showMissing(models);
    this.models.showGpu(gpu);
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

  // Requests the list that is due. `isWanted`: by the user, who may have paused the page.
  async #askList(isWanted = false) {
    this.#sinceStore += 1;
    const isOwn = this.#tasks.isOwn && this.#sinceStore % STORE_EVERY !== 0;
    await this.#renew(() => (isOwn ? this.#askOwn(isWanted) : this.#askStore(this.#nextList(), isWanted)), isWanted);
  }

  async #renew(ask, isWanted) {
    try {
      await ask();
      if (!this.#isDropped(isWanted)) this.updated.take();
    } finally {
      if (!this.#isDropped(isWanted)) this.show();
    }
  }

  // Whether an answer comes after the user has paused the page. It changes nothing then, not even what the page knows:
  // the list is requested again.
  #isDropped(isWanted = false) {
    return this.updated.isPaused && !isWanted;
  }

  #nextList() {
    const now = this.api.now();
    const hasStream = this.#tasks.inFlight.some(({ stage }) => stage === "streaming");
    return this.#tasks.nextList(now, { sinceMs: windowStart(now, this.#range), wantedOlder: this.recent.wantedOlder, hasStream });
  }

  #nextOwnList() {
    const now = this.api.now();
    return this.#tasks.nextOwnList(now, { sinceMs: windowStart(now, this.#range), wantedOlder: this.recent.wantedOlder });
  }

  async #askStore(list, isWanted) {
    const now = this.api.now();
    try {
      const { body } = await this.ask(list.path, { isOnce: list.isOnce });
      if (this.#isDropped(isWanted)) return;
      this.#tasks.take(list, body, this.api.now());
      if (list.name === "newest") this.#leftOut = body.skipped ?? 0;
      this.#hasList = true;
      if (!list.isLive) this.#endOwn(now);
      await this.#askUnseen(isWanted);
    } catch (error) {
      if (this.#isDropped(isWanted)) return;
      if (error instanceof Refused && error.status === 503) return this.#askOwn(isWanted, error);
      this.#sayUnlisted(error, error);
      throw error;
    }
  }

  // Requests what this gateway itself knows. `why`: the store has just been found away.
  async #askOwn(isWanted, why = null) {
    this.#tasks.beginOwn();
    if (why) this.#whyOwn = why.message;
    const list = this.#nextOwnList();
    try {
      const { body } = await this.ask(list.path, { isOnce: list.isOnce });
      if (this.#isDropped(isWanted)) return;
      this.#tasks.take(list, body, this.api.now());
      this.#hasList = true;
      this.condition.problem("lists", "");
      if (why) this.condition.problem("others", `Tasks of other gateways cannot be listed: ${why.message}`);
    } catch (error) {
      if (this.#isDropped(isWanted)) return;
      if (why) this.#tasks.endOwn(); // there is no list at all
      this.#sayUnlisted(error, why ?? error);
      throw error;
    }
  }

  #sayUnlisted(error, why) {
    if (error instanceof Refused && error.status !== 401) this.condition.problem("lists", `Tasks cannot be listed: ${why.message}`);
  }

  // A list of the store came that was requested at `now`.
  #endOwn(now) {
    this.#tasks.endOwn();
    this.#sinceStore = 0;
    this.#listedAtMs = now;
    for (const name of ["lists", "others"]) this.condition.problem(name, "");
  }

  async #askUnseen(isWanted) {
    for (const id of this.#tasks.unseen(this.api.now())) {
      try {
        const { body } = await this.api.get(statusPath(id));
        if (this.#isDropped(isWanted)) return;
        this.#tasks.merge([body], this.api.now());
      } catch (error) {
        if (!(error instanceof Refused) || error.status !== 404) return; // asked again after the next list
        this.#tasks.forgetTask(id);
      }
    }
  }

  async #askModels() {
    try {
      const { body } = await this.ask("/models/loaded");
      if (!this.#isDropped()) this.models.show(body.models);
    } catch (error) {
      if (!(error instanceof Refused || error instanceof Away)) throw error;
      if (!this.#isDropped()) this.models.unknown(error instanceof Refused ? error.message : "the gateway does not answer");
      if (error instanceof Away) throw error;
    }
  }

  // Only the key named `admin` may see the gateways, and an earlier gateway does not know the route.
  async #askNodes() {
    try {
      const { body } = await this.ask("/nodes");
      if (this.#isDropped()) return;
      this.nodes.show(body.items);
      this.#maySeeAll = true;
    } catch (error) {
      if (!(error instanceof Refused) || ![403, 404].includes(error.status)) throw error;
      if (this.#isDropped()) return;
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
    if (this.#tasks.hasNewest || this.#tasks.isOwn) this.tables.showInFlight(all, shown, this.condition.isStale);
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
    const { rows, hidden, isLoading } = this.recent.show(now);
    const isAway = this.condition.has("lists") && isLoading;
    const emptyKind = isAway ? "away" : isLoading ? "loading" : this.recent.isFiltered ? "filtered" : "nothing";
    const nothing = this.empty.show(rows.length ? "" : emptyKind, { hasKey: this.api.hasKey, hidden });
    this.tables.showRecent(rows, nothing, this.#leftOut, hidden);
    setText(byId("own-note"), this.#tasks.isOwn ? this.#ownInWords(now) : "");
  }

  #ownInWords(now) {
    const cause = this.condition.isStoreDown ? "The store is down." : `Not all tasks can be listed: ${this.#whyOwn}.`;
    const others = this.#listedAtMs === null ? "" : ` Those of other gateways are as they were at ${clock(this.#listedAtMs, now)}.`;
    return `${cause} These are the tasks that this gateway itself knows.${others}`;
  }

  showPlots() {
    if (!this.#isShown || (!this.#tasks.hasNewest && !this.#tasks.isOwn)) return;
    const now = this.api.now();
    const start = windowStart(now, this.#range);
    const all = this.#tasks.since(start);
    const drawn = this.#withoutGets(all);
    const earlier = this.#withoutGets(this.#tasks.sendingAt(start));
    this.plots.draw(drawn, earlier, now, this.#range);
    const notes = [
      `Drawn from ${tasksInWords(drawn.length)}.`,
      earlier.length ? `The bytes are also those of ${tasksInWords(earlier.length)} that began before.` : "",
      getsInWords(all.length - drawn.length),
      this.#gapInWords(start, now),
      this.#tasks.isOwn ? this.#ownInWords(now) : "",
      this.#tasks.isWalking(start) ? "Loading older ones." : "",
    ];
    setText(byId("plots-note"), notes.filter(Boolean).join(" "));
  }

  // From when on the plots have all tasks, if that is not all of the range.
  #gapInWords(start, now) {
    const gapMs = this.#tasks.gapBefore(start);
    const whose = this.#tasks.isOwn ? " of this gateway" : "";
    if (gapMs !== null) return `The page knows all${whose} from ${clock(gapMs, now)} on; of the time before, only some.`;
    const firstMs = this.#tasks.ownBeginning(start);
    return firstMs === null ? "" : `The oldest task that this gateway knows is of ${clock(firstMs, now)}.`;
  }

  // -- what the user chooses -----------------------------------------------------------------------------------------

  #goTo(filters, range) {
    location.hash = listAddress(filters, range);
  }

  // The list that is shown, with one more filter.
  #addressWith(filter) {
    return listAddress({ ...this.recent.filters, ...filter }, this.#range);
  }

  #showAndAsk() {
    this.show();
    if (this.updated.isPaused) this.#askList(true).catch(() => {}); // the user wants this list; what is wrong is on top
    else this.lists.hurry();
  }

  #chooseRange(range) {
    for (const button of document.querySelectorAll("#ranges button")) button.setAttribute("aria-pressed", String(button.dataset.range === range));
    setText(byId("h-plots"), RANGES[range].heading);
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
  async #askNewest() {
    const before = new Set(this.#tasks.since(0).map(({ task_id: id }) => id));
    try {
      await this.#renew(() => this.#askStore(this.#tasks.newestList(this.api.now()), true), true);
      return this.#tasks.since(0).filter(({ task_id: id }) => !before.has(id)).length;
    } catch {
      return null; // what is wrong is on top
    }
  }
}
