// Makes and changes elements. Text from outside enters the page here, always as text and never as markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

// An element with attributes; children are nodes or texts.
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Writes only changes, so that a selection, the focus and a screen reader keep their place.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setClass(element, name) {
  if (element.getAttribute("class") !== name) element.setAttribute("class", name);
}

// A `time` element; `text` is its form for people.
export function timeElement(ms, text) {
  return el("time", { datetime: new Date(ms).toISOString() }, text);
}

// Renews such an element in its place.
export function setTime(element, ms, text) {
  const datetime = new Date(ms).toISOString();
  if (element.getAttribute("datetime") !== datetime) element.setAttribute("datetime", datetime);
  setText(element, text);
}

const END = 8; // characters that always show

// A text that is cut in its middle where there is too little room: two parts, of which the first one shrinks.
export function middle(text) {
  return [el("span", { class: "start" }, text.slice(0, -END)), el("span", { class: "end" }, text.slice(-END))];
}

// The same in an element that has these parts. The whole text stays its name and its tip.
export function setMiddle(element, text) {
  if (element.textContent === text) return;
  element.replaceChildren(...middle(text));
  element.title = text;
  element.setAttribute("aria-label", text);
}

// Tells a screen reader something once.
export function announce(text) {
  byId("news").textContent = text;
}

// A table's body with one row per item. A row stays in place as long as its item exists.
export class Rows {
  // columns: [fill(cell, item)], in the order of the table's head; `key` names an item; `lead` gets the focus of a removed row.
  constructor(table, columns, key, lead) {
    this.body = table.tBodies[0];
    this.labels = [...table.tHead.rows[0].cells].map((cell) => ({ text: cell.textContent, name: cell.className }));
    this.columns = columns;
    this.key = key;
    this.lead = lead;
    this.rows = new Map();
    markAsTable(table);
  }

  show(items) {
    const keys = new Set(items.map(this.key));
    for (const [key, row] of this.rows) if (!keys.has(key)) this.#remove(key, row);
    items.forEach((item, place) => {
      const row = this.rows.get(this.key(item)) ?? this.#add(this.key(item));
      if (this.body.rows[place] !== row) this.body.insertBefore(row, this.body.rows[place] ?? null);
      this.columns.forEach((fill, column) => fill(row.cells[column], item));
    });
  }

  #add(key) {
    const cell = ({ text, name }) => el("td", { role: "cell", "data-label": text, class: name });
    const row = el("tr", { role: "row" }, ...this.labels.map(cell));
    this.rows.set(key, row);
    return row;
  }

  #remove(key, row) {
    const hadFocus = row.contains(document.activeElement);
    this.rows.delete(key);
    row.remove();
    if (hadFocus) this.lead?.focus();
  }
}

// On a phone the rows look like cards; some browsers then no longer treat them as a table.
function markAsTable(table) {
  table.setAttribute("role", "table");
  for (const part of [table.tHead, table.tBodies[0]]) part.setAttribute("role", "rowgroup");
  table.tHead.rows[0].setAttribute("role", "row");
  for (const cell of table.tHead.rows[0].cells) cell.setAttribute("role", "columnheader");
}
