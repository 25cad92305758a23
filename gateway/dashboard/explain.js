// The small "?" buttons: each opens one sentence below the line that it stands in, and closes it again.

import { byId, setText } from "./dom.js";
import { DETACHED, KEPT, PRESUMED_NOTE } from "./fields.js";

const TEXTS = {
  unsaved: "Unsaved: statuses that wait to be written to the store. It is above 0 for long only while the store is down.",
  dropped: "Dropped: ended tasks whose status was dropped, because the store was down for too long.",
  kept: `kept: ${KEPT}.`,
  detached: `detached: ${DETACHED}, because its answer is kept.`,
  lost: PRESUMED_NOTE,
};

export function explain() {
  for (const button of document.querySelectorAll("button.why")) button.addEventListener("click", () => toggle(button));
}

function toggle(button) {
  const place = byId(button.getAttribute("aria-controls"));
  const isOpen = button.getAttribute("aria-expanded") === "true";
  for (const other of document.querySelectorAll(`button.why[aria-controls="${place.id}"]`)) other.setAttribute("aria-expanded", "false");
  button.setAttribute("aria-expanded", String(!isOpen));
  place.hidden = isOpen;
  setText(place, isOpen ? "" : TEXTS[button.dataset.word]);
}
