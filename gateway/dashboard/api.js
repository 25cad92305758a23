// Sends requests to the gateway. Owns the API key, the gateway's clock and the kinds of failure; knows nothing of the page.

const KEY = "ollama-gateway-key";
const TIMEOUT_MS = 15_000;

// The gateway did not answer at all.
export class Away extends Error {}

// The gateway answered with an error status.
export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export class Api {
  #key = "";
  #skewMs = 0;
  keyNumber = 0; // counts the keys, to recognise an answer to an older key

  constructor() {
    try {
      this.#key = sessionStorage.getItem(KEY) ?? "";
    } catch {
      // the browser stores nothing: the key stays in this object
    }
  }

  get hasKey() {
    return this.#key !== "";
  }

  setKey(key) {
    this.#key = key;
    this.keyNumber += 1;
    try {
      if (key) sessionStorage.setItem(KEY, key);
      else sessionStorage.removeItem(KEY);
    } catch {
      // see above
    }
  }

  // Unix milliseconds by the gateway's clock, to compare with its times; right to a second.
  now() {
    return Date.now() + this.#skewMs;
  }

  // `known` is what an earlier call returned. `also` lists error statuses whose body counts as an answer.
  // Returns {status, etag, body}, or `known` itself if nothing changed. Throws Away and Refused.
  async get(path, { known = null, also = [], signal = null, timeoutMs = TIMEOUT_MS } = {}) {
    const headers = known?.etag ? { "If-None-Match": known.etag } : {};
    const answer = await this.#fetch(path, { headers, signal, timeoutMs });
    if (answer.status === 304) return known;
    const body = await bodyOf(answer, also);
    return { status: answer.status, etag: answer.headers.get("ETag"), body };
  }

  // Returns {status, body}. Throws Away and Refused.
  async post(path) {
    const answer = await this.#fetch(path, { method: "POST", timeoutMs: TIMEOUT_MS });
    return { status: answer.status, body: await bodyOf(answer) };
  }

  // Throws Away and Refused.
  async delete(path) {
    const answer = await this.#fetch(path, { method: "DELETE", timeoutMs: TIMEOUT_MS });
    if (!answer.ok) throw new Refused(answer.status, problemIn(await readJson(answer), answer));
  }

  // Opens a kept answer, which may go on for long. It has any status, and an ETag. Returns the answer, with its body
  // unread; one without an ETag says that there is nothing yet. Throws Away and Refused.
  async open(path, signal) {
    const answer = await this.#fetch(path, { signal, timeoutMs: null });
    if (answer.ok || answer.headers.has("ETag")) return answer;
    throw new Refused(answer.status, problemIn(await readJson(answer), answer));
  }

  async #fetch(path, { headers = {}, signal = null, timeoutMs, method = "GET" }) {
    if (this.#key) headers.Authorization = `Bearer ${this.#key}`;
    const signals = [signal, timeoutMs === null ? null : AbortSignal.timeout(timeoutMs)].filter(Boolean);
    const options = { method, headers, cache: "no-store", credentials: "omit", redirect: "error" };
    try {
      const answer = await fetch(path, { ...options, signal: AbortSignal.any(signals) });
      this.#readClock(answer);
      return answer;
    } catch (error) {
      throw new Away(error.name === "TimeoutError" ? "no answer in time" : "no connection");
    }
  }

  #readClock(answer) {
    const skewMs = Date.parse(answer.headers.get("Date")) + 500 - Date.now();
    if (Math.abs(skewMs - this.#skewMs) > 1500) this.#skewMs = Math.abs(skewMs) > 1500 ? skewMs : 0;
  }
}

// A body that is cut off must not be taken with its ETag: the gateway would say 304 from then on.
async function bodyOf(answer, also = []) {
  const body = await readJson(answer);
  if (answer.ok && body === null) throw new Away("its answer was cut off, or is not the answer of a gateway");
  if (answer.ok || (also.includes(answer.status) && body !== null)) return body;
  throw new Refused(answer.status, problemIn(body, answer));
}

async function readJson(answer) {
  try {
    return await answer.json();
  } catch {
    return null; // cut off, or the page of another server
  }
}

function problemIn(body, answer) {
  const detail = body?.detail ?? body?.error?.message;
  return typeof detail === "string" ? detail : `HTTP ${answer.status}`;
}

export function statusPath(id) {
  return `/tasks/status/${encodeURIComponent(id)}`;
}

export function inWords(error) {
  if (error instanceof Away) return "The gateway does not answer.";
  return error instanceof Refused && error.status === 404 ? "There is no such task, or its status has expired." : error.message;
}
