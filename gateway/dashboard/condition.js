// The top of the page: the condition of the gateway, Ollama and the store, and what is wrong, in words.

import { byId, el, setClass, setText } from "./dom.js";

export class Condition {
  #problems = new Map(); // what is wrong: "gateway", "lists", …
  #shown = "";
  #summary = ""; // of Ollama and the store; empty before the first answer
  isStale = false; // the gateway, or its lists, cannot be had: the page shows what was
  isStoreDown = false; // by the last answer of /readyz

  // Takes an answer of /readyz. Returns whether Ollama or the store has another condition than before.
  take(body) {
    const before = this.#summary;
    this.#summary = `${body.upstream} ${body.store}`;
    this.isStoreDown = body.store === "down";
    this.#show(body);
    this.#showProblems(body);
    return before !== "" && before !== this.#summary;
  }

  // The gateway does not answer.
  away(text) {
    this.#set("gateway", ["down", "bad"]);
    for (const name of ["ollama", "store", "unsaved", "dropped"]) this.#set(name, ["?", ""]);
    this.#summary = "away";
    this.problem("gateway", text);
  }

  // Shows a problem; an empty text removes it.
  problem(name, text) {
    const problems = this.#problems.set(name, text);
    const isAway = Boolean(problems.get("gateway"));
    byId("try-now").hidden = !isAway;
    this.isStale = isAway || Boolean(problems.get("lists"));
    document.body.classList.toggle("stale", this.isStale);
    // Without its store the gateway cannot list tasks: show one problem, not two.
    const wrong = [...problems].filter(([what, line]) => line && !(["lists", "others"].includes(what) && problems.get("store"))).map(([, line]) => line);
    const lines = wrong.length ? wrong : [this.#summary ? "All is well." : "Asking the gateway…"];
    if (lines.join() === this.#shown) return; // else a screen reader would read it again
    this.#shown = lines.join();
    setClass(byId("problems"), wrong.length ? "wrong" : "");
    byId("problems").replaceChildren(...lines.map((line) => el("li", {}, line)));
  }

  has(name) {
    return Boolean(this.#problems.get(name));
  }

  #show({ status, upstream, store, unsaved, dropped }) {
    this.#set("gateway", status === "draining" ? ["stopping", "bad"] : ["up", "good"]);
    this.#set("ollama", upstream === "up" ? ["up", "good"] : ["down", "bad"]);
    this.#set("store", { up: ["up", "good"], down: ["down", "bad"], off: ["none", ""] }[store]);
    this.#set("unsaved", store === "off" ? ["–", ""] : [unsaved.toLocaleString(), store === "down" && unsaved ? "bad" : ""]);
    this.#set("dropped", [dropped.toLocaleString(), dropped ? "bad" : ""]);
  }

  #showProblems({ status, upstream, store, dropped, gpu }) {
    const texts = {
      draining: status === "draining" && "The gateway is stopping: it refuses new requests, now or soon.",
      ollama: upstream === "down" && "Ollama does not answer: requests get 503 until it does. It may still be starting.",
      store: store === "down" && "The store is down: requests are served, but tasks of other gateways cannot be listed. Statuses wait to be written.",
      gpu: gpu?.problem && gpuProblem(gpu),
      dropped: dropped > 0 && "The store was down for too long: the statuses of some ended tasks were dropped.",
    };
    for (const [name, text] of Object.entries(texts)) this.problem(name, text || "");
  }

  #set(name, [text, kind]) {
    const place = byId(`condition-${name}`);
    setText(place, text);
    setClass(place, kind);
  }
}

// `gpu` is what /readyz says about the GPU; an earlier gateway says nothing.
function gpuProblem({ problem, missing, is_required: isRequired }) {
  const effect = isRequired ? "Because of REQUIRE_GPU the gateway is not ready." : "Ollama uses the CPU, which is slow.";
  const advice = missing.length ? " Start the container again, so that it gets its devices back." : "";
  return `${problem[0].toUpperCase()}${problem.slice(1)}. ${effect}${advice}`;
}
