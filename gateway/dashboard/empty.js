// What stands in the list where it has no row: why, and what to do next.

import { CopyButton } from "./copy.js";
import { byId, setText } from "./dom.js";

const BODY = `{"model": "MODEL", "messages": [{"role": "user", "content": "Hello"}]}`;

export class Empty {
  constructor() {
    new CopyButton(byId("copy-call"), () => byId("first-call-text").textContent);
  }

  // kind: "" (there are rows), "loading", "away", "filtered" or "nothing". Returns what to say.
  show(kind, { hasKey, hidden }) {
    byId("first-call").hidden = kind !== "nothing";
    byId("clear-here").hidden = kind !== "filtered";
    if (kind === "nothing") setText(byId("first-call-text"), call(hasKey));
    if (kind === "loading") return "Asking…";
    if (kind === "away") return "The tasks cannot be listed at the moment.";
    if (kind === "filtered") return hidden ? "Only GET requests match these filters." : "No task matches these filters.";
    return hidden ? "Only GET requests so far." : "No task yet. Requests to /v1/… appear here. Put the name of a model into this call and try it:";
  }
}

// One line for a shell, to the address that the page came from.
function call(hasKey) {
  const key = hasKey ? " -H 'Authorization: Bearer YOUR_KEY'" : "";
  return `curl ${location.origin}/v1/chat/completions${key} -H 'Content-Type: application/json' -d '${BODY}'`;
}
