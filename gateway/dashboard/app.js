// The page: what it requests and when, and which part it shows. The other modules do the rest.

import { listAddress, parse, taskAddress } from "./address.js";
import { Api, Away, Refused } from "./api.js";
import { Condition } from "./condition.js";
import { Detail, inWords, statusPath } from "./detail.js";
import { showDocs } from "./docs.js";
import { announce, byId, el, setText } from "./dom.js";
import { clock } from "./format.js";
import { Empty } from "./empty.js";
import { explain } from "./explain.js";
import { isGet } from "./filters.js";
import { History } from "./history.js";
import { LabelButton } from "./label.js";
import { ModelTable } from "./models.js";
import { NodeTable } from "./nodes.js";
import { Plots, windowStart } from "./plots.js";
import { Poller } from "./poller.js";
import { getsInWords, RecentList } from "./recent.js";
import { TaskTables, tasksInWords } from "./tasks.js";
import { Updated } from "./updated.js";

const LIST_MS = 2000;
const HEALTH_MS = 5000;
const MODELS_MS = 5000;
const NODES_MS = 5000;
const MOST_KNOWN_PAGES = 12;
const OWN_LIST = "/tasks/status?scope=instance&limit=500"; // what this gateway itself knows, without the store
const TURNS_BETWEEN_STORE = 4; // while the store is away

const api = new Api();
const condition = new Condition();
const tasks = new History();
const plots = new Plots((filter) => addressWith(filter));
const models = new ModelTable(api);
const nodes = new NodeTable();
const lists = new Poller(askList, LIST_MS);
const health = new Poller(askHealth, HEALTH_MS);
const loaded = new Poller(askModels, MODELS_MS);
const peers = new Poller(askNodes, NODES_MS);
const recent = new RecentList(tasks, showAndAsk, goToList);
const tables = new TaskTables(api, goToTask, cancelTask);
const empty = new Empty();
const updated = new Updated(lists, pause, lookOnce);
const labels = new LabelButton(api, () => lists.hurry());
const detail = new Detail(api, takeTask, () => goToList(listed));

const known = new Map(); // path -> the last answer, for its ETag
let listed = {}; // the filters of the list that was shown last
let range = "15m"; // of the plots
let hasList = false; // whether any list has come
let isOwnOnly = false; // the store is away: the lists have what this gateway knows
let turnsWithoutStore = 0;
let whyOwn = ""; // what the gateway said instead of a list
let listedAtMs = null; // when the last list of all gateways came
let maySeeAll = false; // the key sees the gateways, and so the tasks of all owners
let leftOut = 0; // malformed records on the newest page
let lastAnswerMs = null;

// -- asking ----------------------------------------------------------------------------------------------------------

// `isOnce`: the page asks for this only once, or wants it even if it is the same.
async function ask(url, { isOnce = false, ...options } = {}) {
  const { keyNumber } = api;
  try {
    const answer = await api.get(url, { known: isOnce ? null : (known.get(url) ?? null), ...options });
    known.delete(url); // keeps the order of use
    if (!isOnce) known.set(url, answer);
    if (known.size > MOST_KNOWN_PAGES) known.delete(known.keys().next().value);
    lastAnswerMs = Date.now();
    updated.reach(true);
    condition.problem("gateway", "");
    return answer;
  } catch (error) {
    if (error instanceof Away) sayAway(error);
    if (error instanceof Refused && error.status === 401 && keyNumber === api.keyNumber) askForKey();
    throw error;
  }
}

async function askList() {
  try {
    turnsWithoutStore += 1;
    if (isOwnOnly && turnsWithoutStore % TURNS_BETWEEN_STORE) await askOwn();
    else await askStore();
    updated.take();
  } finally {
    showTasks();
  }
}

async function askStore() {
  const now = api.now();
  const isLive = tasks.inFlight.some(({ stage }) => stage === "streaming");
  const list = tasks.nextList(now, { sinceMs: windowStart(now, range), search: recent.search, isLive });
  try {
    const { body } = await ask(list.path, { isOnce: list.kind === "next" || list.name === "live" });
    tasks.take(list, body, api.now());
    if (list.name === "newest") leftOut = body.skipped ?? 0;
    hasList = true;
    if (list.name !== "live") leaveOwn(now);
    await lookForUnseen();
  } catch (error) {
    if (error instanceof Refused && error.status === 503) return askOwn(error);
    if (error instanceof Refused && error.status !== 401) condition.problem("lists", `Tasks cannot be listed: ${error.message}`);
    throw error;
  }
}

// The store is away, and `why`: shows what this gateway itself knows.
async function askOwn(why = null) {
  try {
    const { body } = await ask(OWN_LIST);
    tasks.merge(body.items, api.now());
    [isOwnOnly, hasList] = [true, true];
    if (why) whyOwn = why.message;
    condition.problem("lists", "");
    if (why) condition.problem("others", `Tasks of other gateways cannot be listed: ${why.message}`);
  } catch (error) {
    if (error instanceof Refused && error.status !== 401) condition.problem("lists", `Tasks cannot be listed: ${(why ?? error).message}`);
    throw error;
  }
}

function leaveOwn(now) {
  [isOwnOnly, turnsWithoutStore, listedAtMs] = [false, 0, now];
  for (const name of ["lists", "others"]) condition.problem(name, "");
}

async function lookForUnseen() {
  for (const id of tasks.unseen(api.now())) {
    try {
      const { body } = await api.get(statusPath(id));
      tasks.merge([body], api.now());
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 404) return; // the next turn tries again
      tasks.forgetTask(id);
    }
  }
}

async function askHealth() {
  const { body } = await ask("/readyz", { also: [503] });
  setText(byId("version"), body.version);
  models.showMissing(body.models);
  if (!condition.take(body)) return;
  turnsWithoutStore = -1; // the next list is the store's
  if (!updated.isPaused) hurry(lists, loaded, peers); // not itself: a balancer's gateways may differ each time
}

async function askModels() {
  try {
    const { body } = await ask("/models/loaded");
    models.show(body.models);
  } catch (error) {
    if (!(error instanceof Refused || error instanceof Away)) throw error;
    models.unknown();
    if (error instanceof Away) throw error;
  }
}

// Only the key named `admin` may see the gateways, and an earlier gateway does not know the route.
async function askNodes() {
  try {
    const { body } = await ask("/nodes");
    nodes.show(body.items);
    maySeeAll = true;
  } catch (error) {
    if (!(error instanceof Refused) || ![403, 404].includes(error.status)) throw error;
    peers.stop();
    nodes.hide();
    maySeeAll = false;
  }
}

function sayAway(error) {
  const since = lastAnswerMs === null ? "" : ` The page shows the state of ${clock(lastAnswerMs, Date.now())}.`;
  updated.reach(false);
  condition.away(`The gateway does not answer (${error.message}).${since} The page keeps trying.`);
}

function hurry(...pollers) {
  for (const poller of pollers) poller.hurry();
}

// -- tasks -----------------------------------------------------------------------------------------------------------

function showTasks() {
  const now = api.now();
  const isOld = document.body.classList.contains("stale");
  const { filters } = recent;
  tables.address = addressWith;
  const all = tasks.inFlight;
  const shown = filters.gets ? all : all.filter((task) => !isGet(task));
  tables.showOwners(maySeeAll && tasks.since(0).some(({ extensions }) => extensions.owner != null));
  if (tasks.hasNewest || isOwnOnly) tables.showInFlight(all, shown, isOld);
  showRecent(now);
  labels.show(filters.label ?? "", all);
  document.title = `${updated.mark}${shown.length ? `(${shown.length}) ` : ""}Ollama Gateway`;
  updated.tick();
  showPlots(now);
  detail.refresh((task) => tasks.best(task));
}

function showRecent(now) {
  const page = recent.page(now, isOwnOnly);
  const isLoading = page === null || (page.isSearching && !page.rows.length);
  const isAway = !isOwnOnly && page === null && condition.has("lists");
  const emptyKind = isAway ? "away" : isLoading ? "loading" : recent.isFiltered ? "filtered" : "nothing";
  const { rows, hidden } = page ?? { rows: [], hidden: 0 };
  const nothing = empty.show(rows.length ? "" : emptyKind, { hasKey: api.hasKey, hidden });
  tables.showRecent(rows, nothing, leftOut, hidden);
  setText(byId("own-note"), isOwnOnly ? ownInWords(now) : "");
}

function ownInWords(now) {
  const cause = whyOwn.includes("rebuilt") ? "The list is being rebuilt." : "The store is down.";
  const others = listedAtMs === null ? "" : ` Those of other gateways are as they were at ${clock(listedAtMs, now)}.`;
  return `${cause} These are the tasks that this gateway itself knows.${others}`;
}

function showPlots(now) {
  if (!tasks.hasNewest && !isOwnOnly) return;
  const start = windowStart(now, range);
  const all = tasks.since(start);
  const drawn = recent.filters.gets ? all : all.filter((task) => !isGet(task));
  plots.draw(drawn, now, range);
  const gapMs = isOwnOnly ? null : tasks.gapBefore(start);
  const more = gapMs === null ? "" : ` The page knows all from ${clock(gapMs, now)} on; of the time before, only some.`;
  const state = isOwnOnly ? ` ${ownInWords(now)}` : tasks.isWalking(start) ? " Loading older ones." : "";
  setText(byId("plots-note"), `Drawn from ${tasksInWords(drawn.length)}. ${getsInWords(all.length - drawn.length)}${more}${state}`.replace("  ", " ").trim());
}

function takeTask(task) {
  tasks.merge([task], api.now());
  showTasks();
}

function tick() {
  if (document.hidden || byId("view-dashboard").hidden) return;
  updated.tick();
  if (updated.isPaused) return;
  tables.tick();
  models.tick();
  nodes.tick();
}

async function cancelTask(id) {
  const { body } = await api.post(`/tasks/${encodeURIComponent(id)}/cancel`);
  takeTask(body);
  return body;
}

// -- the key ---------------------------------------------------------------------------------------------------------

function askForKey() {
  for (const poller of [lists, loaded, peers]) poller.stop();
  detail.close();
  setText(byId("key-problem"), api.hasKey ? "The gateway does not accept this key." : "");
  api.setKey("");
  condition.problem("lists", "");
  showParts(true);
}

function takeKey(event) {
  event.preventDefault();
  const key = byId("key").value.trim();
  byId("key").value = "";
  if (!/^[!-~]+$/.test(key)) return setText(byId("key-problem"), "A key consists of printable ASCII characters.");
  api.setKey(key);
  if (hasList) return location.reload(); // removes everything that another key showed
  setText(byId("key-problem"), "");
  showParts(false);
}

function forgetKey() {
  api.setKey("");
  location.reload();
}

// -- the address, and the parts of the page --------------------------------------------------------------------------

const isDocs = () => location.pathname === "/docs" || parse(location.hash).part === "api";

function goToTask(id) {
  location.hash = taskAddress(id);
}

function goToList(filters) {
  location.hash = listAddress(filters, range);
}

// The list that is shown, with one more filter.
function addressWith(filter) {
  return listAddress({ ...recent.filters, ...filter }, range);
}

function showAndAsk() {
  showTasks();
  if (updated.isPaused) askList().catch(() => {}); // the user wants this list; what is wrong is on top
  else lists.hurry();
}

// -- pausing ---------------------------------------------------------------------------------------------------------

function pause(isPaused) {
  for (const poller of [lists, loaded, peers]) isPaused ? poller.stop() : poller.start();
  if (isPaused) announce("Paused.");
  else hurry(lists, loaded, peers);
  showTasks();
}

// Requests the newest tasks once, while the page is paused. Returns how many the page did not know; null after a failure.
async function lookOnce() {
  const before = new Set(tasks.since(0).map(({ task_id: id }) => id));
  try {
    await askList();
    return tasks.since(0).filter(({ task_id: id }) => !before.has(id)).length;
  } catch {
    return null; // what is wrong is on top
  }
}

function showParts(needsKey) {
  byId("key-form").hidden = !needsKey;
  byId("view-dashboard").hidden = needsKey || isDocs();
  byId("view-api").hidden = needsKey || !isDocs();
  byId("forget-key").hidden = needsKey || !api.hasKey;
  byId(isDocs() ? "to-dashboard" : "to-api").removeAttribute("aria-current");
  byId(isDocs() ? "to-api" : "to-dashboard").setAttribute("aria-current", "page");
  health.start();
  if (needsKey) return byId("key").focus();
  if (isDocs()) return openDocs();
  for (const poller of [lists, loaded, peers]) if (!updated.isPaused) poller.start();
  followAddress();
}

// Shows what the address names: a task, or the list with its filters.
function followAddress() {
  const { part, task, filters, range: wanted } = parse(location.hash);
  if (part === "task") return openTask(task);
  detail.close();
  listed = filters;
  chooseRange(wanted);
  recent.choose(filters, wanted);
}

function chooseRange(wanted) {
  for (const link of document.querySelectorAll("#ranges button")) link.setAttribute("aria-pressed", String(link.dataset.range === wanted));
  if (wanted === range) return;
  range = wanted;
  tasks.readAgain();
}

async function openTask(id) {
  setText(byId("search-problem"), "");
  try {
    await detail.open(id);
  } catch (error) {
    if (error instanceof Refused && error.status === 401) askForKey();
    else setText(byId("search-problem"), inWords(error));
  }
}

async function openDocs() {
  for (const poller of [lists, loaded, peers]) poller.stop();
  try {
    await showDocs(byId("view-api"), api);
  } catch (error) {
    if (error instanceof Refused && error.status === 401) askForKey();
    else byId("view-api").replaceChildren(el("p", { class: "notice" }, inWords(error)));
  }
}

for (const button of document.querySelectorAll("#ranges button")) {
  button.addEventListener("click", () => (location.hash = listAddress(recent.filters, button.dataset.range)));
}
explain();
byId("key-form").addEventListener("submit", takeKey);
byId("forget-key").addEventListener("click", forgetKey);
byId("try-now").addEventListener("click", () => hurry(lists, health, loaded, peers));
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = byId("search-id").value.trim();
  if (id) goToTask(id);
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment of the address already names the part that is shown
  byId("content").focus();
});
window.addEventListener("hashchange", () => showParts(!byId("key-form").hidden));
window.addEventListener("resize", () => showPlots(api.now()));
setInterval(tick, 1000);
showParts(false);
