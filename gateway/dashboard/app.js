// The page: what it requests and when, and which part it shows. The other modules do the rest.

import { listAddress, parse, taskAddress } from "./address.js";
import { Api, Away, Refused } from "./api.js";
import { Condition } from "./condition.js";
import { showDocs } from "./docs.js";
import { byId, el, setText } from "./dom.js";
import { clock, minute } from "./format.js";
import { History, PAGE, path } from "./history.js";
import { ModelTable } from "./models.js";
import { NodeTable } from "./nodes.js";
import { Plots, windowStart } from "./plots.js";
import { Poller } from "./poller.js";
import { RecentList } from "./recent.js";
import { inWords, statusPath, TaskView } from "./task.js";
import { TaskTables, tasksInWords } from "./tasks.js";

const LIST_MS = 2000;
const HEALTH_MS = 5000;
const MODELS_MS = 5000;
const NODES_MS = 5000;
const MOST_KNOWN_PAGES = 12;

const api = new Api();
const condition = new Condition();
const tasks = new History();
const plots = new Plots();
const models = new ModelTable(api);
const nodes = new NodeTable();
const lists = new Poller(askList, LIST_MS);
const health = new Poller(askHealth, HEALTH_MS);
const loaded = new Poller(askModels, MODELS_MS);
const peers = new Poller(askNodes, NODES_MS);
const polled = new Set([lists, loaded, peers]); // while the list is shown
const recent = new RecentList(() => lists.hurry(), goToList);
const tables = new TaskTables(api, cancelTask);
const view = new TaskView(api, { onNews: takeTask, onRefused: askForKey, onLeave: () => (location.hash = listed), cancel: cancelTask });

const known = new Map(); // path -> the last answer, for its ETag
let listed = "#/"; // the address of the list that was shown last
let opener = null; // what had the focus when a task was opened from the list
let newest = null;
let hasShown = false; // a task
let lastAnswerMs = null;

// -- asking ----------------------------------------------------------------------------------------------------------

async function ask(url, options = {}) {
  const { keyNumber } = api;
  try {
    const answer = await api.get(url, { known: known.get(url) ?? null, ...options });
    known.delete(url); // keeps the order of use
    known.set(url, answer);
    if (known.size > MOST_KNOWN_PAGES) known.delete(known.keys().next().value);
    lastAnswerMs = Date.now();
    condition.problem("gateway", "");
    return answer;
  } catch (error) {
    if (error instanceof Away) sayAway(error);
    if (error instanceof Refused && error.status === 401 && keyNumber === api.keyNumber) askForKey();
    throw error;
  }
}

async function askList() {
  const newestPath = path({ limit: PAGE });
  const wanted = recent.isWanted ? { kind: "view", path: recent.path ?? newestPath } : tasks.nextList(recent.path);
  try {
    const { body } = await ask(wanted.path);
    tasks.take(wanted.kind, body, api.now());
    if (wanted.kind === "newest") newest = body;
    if (wanted.path === (recent.path ?? newestPath)) recent.take(body);
    condition.problem("lists", "");
    await lookForUnseen();
  } catch (error) {
    if (error instanceof Refused && error.status !== 401) condition.problem("lists", `Tasks cannot be listed: ${error.message}`);
    throw error;
  } finally {
    showTasks();
  }
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
  models.showGpu(body.gpu);
  if (condition.take(body)) hurry(lists, loaded, peers); // not itself: a balancer's gateways may differ each time
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
  } catch (error) {
    if (!(error instanceof Refused) || ![403, 404].includes(error.status)) throw error;
    peers.stop();
    polled.delete(peers);
    nodes.hide();
  }
}

function sayAway(error) {
  const since = lastAnswerMs === null ? "" : ` The page shows the state of ${clock(lastAnswerMs, Date.now())}.`;
  condition.away(`The gateway does not answer (${error.message}).${since} The page keeps trying.`);
}

function hurry(...pollers) {
  for (const poller of pollers) poller.hurry();
}

// -- tasks -----------------------------------------------------------------------------------------------------------

function showTasks() {
  const now = api.now();
  const inFlight = tasks.inFlight;
  const isOld = document.body.classList.contains("stale");
  if (newest !== null) tables.showInFlight(inFlight, isOld);
  const { page } = recent;
  if (page !== null) tables.showRecent(page.items.map((task) => tasks.best(task)), recent.isFiltered, page.skipped ?? 0);
  if (byId("view-dashboard").hidden) return;
  document.title = inFlight.length ? `(${inFlight.length}) Ollama Gateway` : "Ollama Gateway";
  showPlots(now);
}

function showPlots(now) {
  if (newest === null) return;
  const drawn = tasks.since(windowStart(now));
  plots.draw(drawn, now);
  const gapMs = tasks.gapBefore(now);
  const more = gapMs === null ? "" : ` There were more: before ${minute(gapMs)} this page knows only some of them.`;
  setText(byId("plots-note"), `Drawn from ${tasksInWords(drawn.length)}.${tasks.isWalking ? " Loading older ones." : more}`);
}

function takeTask(task) {
  hasShown = true;
  tasks.merge([task], api.now());
  showTasks();
}

function tick() {
  if (document.hidden) return;
  view.tick();
  if (byId("view-dashboard").hidden) return;
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
  for (const poller of polled) poller.stop();
  view.close();
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
  if (hasShown || newest !== null) return location.reload(); // removes everything that another key showed
  setText(byId("key-problem"), "");
  polled.add(peers);
  showParts(false);
}

function forgetKey() {
  api.setKey("");
  location.reload();
}

// -- the address, and the parts of the page --------------------------------------------------------------------------

const VIEWS = { list: "view-dashboard", task: "view-task", api: "view-api" };
const here = () => (location.pathname === "/docs" ? { part: "api" } : parse(location.hash));

function goToList(filters) {
  location.hash = listAddress(filters);
}

function showParts(needsKey) {
  const { part, task, filters } = here();
  const hadFocus = document.activeElement;
  byId("key-form").hidden = !needsKey;
  for (const [name, id] of Object.entries(VIEWS)) byId(id).hidden = needsKey || name !== part;
  byId("forget-key").hidden = needsKey || !api.hasKey;
  byId(part === "api" ? "to-dashboard" : "to-api").removeAttribute("aria-current");
  byId(part === "api" ? "to-api" : "to-dashboard").setAttribute("aria-current", "page");
  health.start();
  if (needsKey) return byId("key").focus();
  if (part === "task") return openTask(task, hadFocus);
  if (part === "api") return openDocs();
  showList(filters);
}

// While a task is open, the lists are not asked.
function openTask(id, hadFocus) {
  for (const poller of polled) poller.stop();
  condition.problem("lists", "");
  if (byId("view-dashboard").contains(hadFocus)) opener = hadFocus;
  byId("task-back").href = listed;
  view.open(id);
}

function showList(filters) {
  const wasOpen = view.id;
  view.close();
  listed = location.hash || "#/";
  for (const poller of polled) poller.start();
  recent.choose(filters);
  showTasks();
  if (wasOpen !== null) focusOnReturn(wasOpen);
}

// Back to where the user came from: the row of the task, or the list's heading if there is none.
function focusOnReturn(id) {
  const links = [...document.querySelectorAll("a.id")].filter((link) => link.title === id);
  const place = opener?.isConnected ? opener : (links[0] ?? byId("h-recent"));
  opener = null;
  place.focus();
}

async function openDocs() {
  for (const poller of polled) poller.stop();
  view.close();
  try {
    await showDocs(byId("view-api"), api);
  } catch (error) {
    if (error instanceof Refused && error.status === 401) askForKey();
    else byId("view-api").replaceChildren(el("p", { class: "notice" }, inWords(error)));
  }
}

byId("key-form").addEventListener("submit", takeKey);
byId("forget-key").addEventListener("click", forgetKey);
byId("try-now").addEventListener("click", () => hurry(lists, health, loaded, peers, view));
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = byId("search-id").value.trim();
  if (id) location.hash = taskAddress(id);
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment of the address already names the part that is shown
  byId("content").focus();
});
window.addEventListener("hashchange", () => showParts(!byId("key-form").hidden));
window.addEventListener("resize", () => showPlots(api.now()));
setInterval(tick, 1000);
showParts(false);
