// The page: what it requests and when, what is wrong, and which part it shows. The other modules do the rest.

import { Api, Away, Refused } from "./api.js";
import { Detail, inWords, statusPath } from "./detail.js";
import { showDocs } from "./docs.js";
import { byId, el, setClass, setText } from "./dom.js";
import { clock, minute } from "./format.js";
import { History, PAGE, path } from "./history.js";
import { ModelTable } from "./models.js";
import { NodeTable } from "./nodes.js";
import { Plots, windowStart } from "./plots.js";
import { Poller } from "./poller.js";
import { TaskTables, tasksInWords } from "./tasks.js";

const LIST_MS = 2000;
const HEALTH_MS = 5000;
const MODELS_MS = 5000;
const NODES_MS = 5000;
const MOST_KNOWN_PAGES = 12;

const api = new Api();
const tasks = new History();
const plots = new Plots();
const models = new ModelTable(api);
const nodes = new NodeTable();
const tables = new TaskTables(api, openTask, cancelTask);
const detail = new Detail(api, takeTask);
const lists = new Poller(askList, LIST_MS);
const health = new Poller(askHealth, HEALTH_MS);
const loaded = new Poller(askModels, MODELS_MS);
const peers = new Poller(askNodes, NODES_MS);

const known = new Map(); // path -> the last answer, for its ETag
const problems = new Map(); // what is wrong: "gateway", "lists", …
const view = { state: "", cursors: [""], page: null, isWanted: false };
let newest = null;
let condition = ""; // of Ollama and the store; empty before the first answer
let shownProblems = "";
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
    setProblem("gateway", "");
    return answer;
  } catch (error) {
    if (error instanceof Away) sayAway(error);
    if (error instanceof Refused && error.status === 401 && keyNumber === api.keyNumber) askForKey();
    throw error;
  }
}

async function askList() {
  const wanted = view.isWanted ? { kind: "view", path: viewPath() ?? path({ limit: PAGE }) } : tasks.nextList(viewPath());
  try {
    const { body } = await ask(wanted.path);
    tasks.take(wanted.kind, body, api.now());
    if (wanted.kind === "newest") newest = body;
    if (wanted.path === (viewPath() ?? path({ limit: PAGE }))) takeView(body);
    setProblem("lists", "");
    await lookForUnseen();
  } catch (error) {
    if (error instanceof Refused && error.status !== 401) setProblem("lists", `Tasks cannot be listed: ${error.message}`);
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
  const before = condition;
  condition = `${body.upstream} ${body.store}`;
  setText(byId("version"), body.version);
  models.showMissing(body.models);
  showConditions(body);
  showHealthProblems(body);
  if (before && condition !== before) hurry(lists, loaded, peers); // not itself: a balancer's gateways may differ each time
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
    nodes.hide();
  }
}

function sayAway(error) {
  setCondition("gateway", ["down", "bad"]);
  for (const name of ["ollama", "store", "unsaved", "dropped"]) setCondition(name, ["?", ""]);
  condition = "away";
  const since = lastAnswerMs === null ? "" : ` The page shows the state of ${clock(lastAnswerMs, Date.now())}.`;
  setProblem("gateway", `The gateway does not answer (${error.message}).${since} The page keeps trying.`);
}

function hurry(...pollers) {
  for (const poller of pollers) poller.hurry();
}

// -- what is wrong ---------------------------------------------------------------------------------------------------

function showConditions({ status, upstream, store, unsaved, dropped }) {
  setCondition("gateway", status === "draining" ? ["stopping", "bad"] : ["up", "good"]);
  setCondition("ollama", upstream === "up" ? ["up", "good"] : ["down", "bad"]);
  setCondition("store", { up: ["up", "good"], down: ["down", "bad"], off: ["none", ""] }[store]);
  setCondition("unsaved", store === "off" ? ["–", ""] : [unsaved.toLocaleString(), store === "down" && unsaved ? "bad" : ""]);
  setCondition("dropped", [dropped.toLocaleString(), dropped ? "bad" : ""]);
}

function setCondition(name, [text, kind]) {
  const place = byId(`condition-${name}`);
  setText(place, text);
  setClass(place, kind);
}

function showHealthProblems({ status, upstream, store, dropped }) {
  const texts = {
    draining: status === "draining" && "The gateway is stopping: it refuses new requests, now or soon.",
    ollama: upstream === "down" && "Ollama does not answer: requests get 503 until it does. It may still be starting.",
    store: store === "down" && "The store is down: requests are served, but tasks cannot be listed. Their statuses wait to be written.",
    dropped: dropped > 0 && "The store was down for too long: the statuses of some ended tasks were dropped.",
  };
  for (const [name, text] of Object.entries(texts)) setProblem(name, text || "");
}

// Shows a problem; an empty text removes it.
function setProblem(name, text) {
  problems.set(name, text);
  const isAway = Boolean(problems.get("gateway"));
  byId("try-now").hidden = !isAway;
  document.body.classList.toggle("stale", isAway || Boolean(problems.get("lists")));
  // Without its store the gateway cannot list tasks: show one problem, not two.
  const wrong = [...problems].filter(([what, line]) => line && !(what === "lists" && problems.get("store"))).map(([, line]) => line);
  const lines = wrong.length ? wrong : [condition ? "All is well." : "Asking the gateway…"];
  if (lines.join() === shownProblems) return; // else a screen reader would read it again
  shownProblems = lines.join();
  setClass(byId("problems"), wrong.length ? "wrong" : "");
  byId("problems").replaceChildren(...lines.map((line) => el("li", {}, line)));
}

// -- tasks -----------------------------------------------------------------------------------------------------------

function showTasks() {
  const now = api.now();
  const inFlight = tasks.inFlight;
  const isOld = document.body.classList.contains("stale");
  if (newest !== null) tables.showInFlight(inFlight, isOld);
  if (view.page !== null) {
    const isFiltered = view.state !== "" || view.cursors.length > 1;
    tables.showRecent(view.page.items.map((task) => tasks.best(task)), isFiltered, view.page.skipped ?? 0);
  }
  document.title = inFlight.length ? `(${inFlight.length}) Ollama Gateway` : "Ollama Gateway";
  showPlots(now);
  detail.refresh((task) => tasks.best(task));
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
  tasks.merge([task], api.now());
  showTasks();
}

function tick() {
  if (document.hidden || byId("view-dashboard").hidden) return;
  tables.tick();
  models.tick();
  nodes.tick();
}

async function cancelTask(id) {
  const { body } = await api.post(`/tasks/${encodeURIComponent(id)}/cancel`);
  takeTask(body);
  return body;
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

// -- the list that the user chose ------------------------------------------------------------------------------------

// Null for the newest tasks of all states: the page requests those anyway.
function viewPath() {
  const cursor = view.cursors.at(-1);
  return view.state || cursor ? path({ limit: PAGE, state: view.state, cursor }) : null;
}

function takeView(page) {
  view.isWanted = false;
  view.page = page;
  setText(byId("page-number"), `Page ${view.cursors.length}`);
  byId("newer").disabled = view.cursors.length === 1;
  byId("older").disabled = page.next_cursor === null;
}

function turnTo(cursors) {
  view.cursors = cursors;
  view.isWanted = true;
  setText(byId("page-number"), "Loading…");
  lists.hurry();
}

// -- the key ---------------------------------------------------------------------------------------------------------

function askForKey() {
  for (const poller of [lists, loaded, peers]) poller.stop();
  detail.close();
  setText(byId("key-problem"), api.hasKey ? "The gateway does not accept this key." : "");
  api.setKey("");
  setProblem("lists", "");
  showParts(true);
}

function takeKey(event) {
  event.preventDefault();
  const key = byId("key").value.trim();
  byId("key").value = "";
  if (!/^[!-~]+$/.test(key)) return setText(byId("key-problem"), "A key consists of printable ASCII characters.");
  api.setKey(key);
  if (newest !== null) return location.reload(); // removes everything that another key showed
  setText(byId("key-problem"), "");
  showParts(false);
}

function forgetKey() {
  api.setKey("");
  location.reload();
}

// -- parts of the page -----------------------------------------------------------------------------------------------

const isDocs = () => location.pathname === "/docs" || location.hash === "#api";

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
  for (const poller of [lists, loaded, peers]) poller.start();
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

byId("key-form").addEventListener("submit", takeKey);
byId("forget-key").addEventListener("click", forgetKey);
byId("try-now").addEventListener("click", () => hurry(lists, health, loaded, peers));
byId("state").addEventListener("change", ({ target }) => {
  view.state = target.value;
  turnTo([""]);
});
byId("older").addEventListener("click", () => turnTo([...view.cursors, view.page.next_cursor]));
byId("newer").addEventListener("click", () => turnTo(view.cursors.slice(0, -1)));
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = byId("search-id").value.trim();
  if (id) openTask(id);
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment of the address already names the part that is shown
  byId("content").focus();
});
window.addEventListener("hashchange", () => showParts(!byId("key-form").hidden));
window.addEventListener("resize", () => showPlots(api.now()));
setInterval(tick, 1000);
showParts(false);
