// The page: its key, its address, and which of its views is shown. The views do the rest.

import { parse, taskAddress } from "./address.js";
import { Api, inWords, Refused } from "./api.js";
import { Board } from "./board.js";
import { Condition } from "./condition.js";
import { showDocs } from "./docs.js";
import { byId, el, setText } from "./dom.js";
import { explain } from "./explain.js";
import { Poller } from "./poller.js";
import { Source } from "./source.js";
import { TaskView } from "./task.js";

const HEALTH_MS = 5000;
const VIEWS = { list: "view-dashboard", task: "view-task", api: "view-api" };

const api = new Api();
const condition = new Condition();
const source = new Source(api, { onAnswer: sayHere, onAway: sayAway, onKey: askForKey });
const health = new Poller(askHealth, HEALTH_MS);
const board = new Board(api, (url, options) => source.ask(url, options), condition, cancelTask);
const view = new TaskView(api, { onNews: takeTask, onRefused: askForKey, onLeave: () => (location.hash = listed), cancel: cancelTask });

let listed = "#/"; // the address of the list that was shown last
let opener = null; // what had the focus when a task was opened from the list
let hasShownTask = false;

// -- the gateway, and one task ---------------------------------------------------------------------------------------

function sayHere() {
  board.reach(true);
  condition.problem("gateway", "");
}

function sayAway(text) {
  board.reach(false);
  condition.away(text);
}

async function askHealth() {
  const { body } = await source.ask("/readyz", { also: [503] });
  setText(byId("version"), body.version);
  board.showModels(body);
  if (condition.take(body)) board.askStoreNext(); // not this poller: a balancer's gateways may differ each time
}

function takeTask(task) {
  hasShownTask = true;
  board.take(task);
}

async function cancelTask(id) {
  const { body } = await api.post(`/tasks/${encodeURIComponent(id)}/cancel`);
  takeTask(body);
  return body;
}

// -- the key ---------------------------------------------------------------------------------------------------------

function askForKey() {
  board.stop();
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
  if (hasShownTask || board.hasShown) return location.reload(); // removes everything that another key showed
  setText(byId("key-problem"), "");
  board.takeKey();
  showParts(false);
}

function forgetKey() {
  api.setKey("");
  location.reload();
}

// -- the address, and the views --------------------------------------------------------------------------------------

const here = () => (location.pathname === "/docs" ? { part: "api" } : parse(location.hash));

function showParts(needsKey) {
  const { part, task, filters, range } = here();
  const hadFocus = document.activeElement;
  byId("key-form").hidden = !needsKey;
  for (const [name, id] of Object.entries(VIEWS)) byId(id).hidden = needsKey || name !== part;
  byId("freshness").hidden = needsKey || part !== "list";
  byId("forget-key").hidden = needsKey || !api.hasKey;
  byId(part === "api" ? "to-dashboard" : "to-api").removeAttribute("aria-current");
  byId(part === "api" ? "to-api" : "to-dashboard").setAttribute("aria-current", "page");
  health.start();
  if (needsKey) return byId("key").focus();
  if (part === "task") return openTask(task, hadFocus);
  if (part === "api") return openDocs();
  showList(filters, range);
}

// While a task is open, the lists are not requested.
function openTask(id, hadFocus) {
  board.stop();
  condition.problem("lists", "");
  if (byId("view-dashboard").contains(hadFocus)) opener = hadFocus;
  byId("task-back").href = listed;
  view.open(id);
}

function showList(filters, range) {
  const wasOpen = view.id;
  view.close();
  listed = location.hash || "#/";
  board.start(filters, range);
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
  board.stop();
  view.close();
  try {
    await showDocs(byId("view-api"), api);
  } catch (error) {
    if (error instanceof Refused && error.status === 401) askForKey();
    else byId("view-api").replaceChildren(el("p", { class: "notice" }, inWords(error)));
  }
}

explain();
byId("key-form").addEventListener("submit", takeKey);
byId("forget-key").addEventListener("click", forgetKey);
byId("try-now").addEventListener("click", () => {
  for (const part of [board, health, view]) part.hurry();
});
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
window.addEventListener("resize", () => board.showPlots());
setInterval(() => {
  if (document.hidden) return;
  view.tick();
  board.tick();
}, 1000);
showParts(false);
