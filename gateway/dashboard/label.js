// The button that cancels all tasks of a label that are in flight. It is there while the list has the filter of a label.

import { ConfirmButton } from "./confirm.js";
import { byId } from "./dom.js";
import { count } from "./format.js";

export class LabelButton {
  #label = "";

  // `onDone()` is called when the tasks were asked to stop.
  constructor(api, onDone) {
    this.api = api;
    this.onDone = onDone;
    const words = { ask: "Cancel", yes: "Really cancel", no: "Keep", doing: "Cancelling…", what: "the tasks with this label" };
    this.button = new ConfirmButton(byId("cancel-label"), words, () => this.#cancel(), "The tasks were not cancelled");
  }

  // `inFlight` are all tasks in flight that the page knows; without a label there is no button.
  show(label, inFlight) {
    const number = label ? inFlight.filter((task) => task.extensions.label === label).length : 0;
    if (!number || label !== this.#label) this.button.close();
    this.#label = label;
    if (!number) return this.#hide();
    byId("cancel-label").hidden = false;
    this.button.rename(`Cancel the ${number.toLocaleString()} in flight with this label`, `the tasks with the label ${label}`);
  }

  #hide() {
    const place = byId("cancel-label");
    if (place.contains(document.activeElement)) byId("h-recent").focus();
    place.hidden = true;
  }

  async #cancel() {
    const { body } = await this.api.post(`/tasks/cancel?label=${encodeURIComponent(this.#label)}`);
    byId("h-recent").focus();
    this.onDone();
    return `${count(body.cancelled, "task was", "tasks were")} asked to stop.`;
  }
}
