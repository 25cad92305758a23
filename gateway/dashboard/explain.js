// The small "?" buttons: each opens one sentence below the line that it stands in, and closes it again.

import { setText } from "./dom.js";

const TEXTS = {
  unsaved: "Unsaved: statuses that wait to be written to the store. It is above 0 for long only while the store is down.",
  dropped: "Dropped: ended tasks whose status was dropped, because the store was down for too long.",
  kept: "kept: the gateway keeps the answer, or kept it until its time was over, so that it can be read again.",
  detached: "detached: the task goes on without its client, because its answer is kept.",
  lost: "lost?: there is no word from the task's gateway, which may still run it. Wait, cancel it, or send its request again.",
};

export function explain() {
  for (const button of document.querySelectorAll("button.why")) button.addEventListener("click", () => toggle(button));
}

function toggle(button) {
  const place = document.getElementById(button.getAttribute("aria-controls"));
  const isOpen = button.getAttribute("aria-expanded") === "true";
  for (const other of document.querySelectorAll(`button.why[aria-controls="${place.id}"]`)) other.setAttribute("aria-expanded", "false");
  button.setAttribute("aria-expanded", String(!isOpen));
  place.hidden = isOpen;
  setText(place, isOpen ? "" : TEXTS[button.dataset.word]);
}
