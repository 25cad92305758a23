// Shows the gateway's own routes, from /openapi.json. Builds elements only; knows nothing of tasks.

import { el } from "./dom.js";

export async function showDocs(holder, api) {
  const { body } = await api.get("/openapi.json");
  const routes = Object.entries(body.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, route]) => ({ path, method: method.toUpperCase(), ...route })),
  );
  const schemas = Object.entries(body.components?.schemas ?? {}).filter(([name]) => !name.includes("ValidationError"));
  holder.replaceChildren(
    el("section", { class: "panel" }, el("h2", {}, `${body.info.title} ${body.info.version}`), el("p", {}, body.info.summary ?? ""),
      el("p", {}, "For programs: ", el("a", { href: "/openapi.json" }, "/openapi.json"))),
    ...routes.map(drawRoute),
    el("section", { class: "panel", "aria-labelledby": "h-schemas" }, el("h2", { id: "h-schemas" }, "Documents"), ...schemas.map(drawSchema)),
  );
}

function drawRoute(route) {
  const head = el("h2", {}, el("span", { class: "method" }, route.method), " ", el("code", {}, route.path));
  const parts = [head, ...paragraphs(route.description ?? route.summary ?? "")];
  if (route.parameters?.length) parts.push(drawTable("Parameters", ["Name", "In", "Type", "Meaning"], route.parameters.map(parameterRow)));
  parts.push(drawTable("Answers", ["Status", "Body", "Meaning"], Object.entries(route.responses).map(answerRow)));
  return el("section", { class: "panel" }, ...parts);
}

function paragraphs(text) {
  return text.split(/\n\n+/).map((paragraph) => el("p", {}, ...withCode(paragraph)));
}

// Texts between backticks are code.
function withCode(text) {
  return text.split("`").map((part, index) => (index % 2 ? el("code", {}, part) : part));
}

function drawTable(title, names, rows) {
  const head = el("thead", {}, el("tr", {}, ...names.map((name) => el("th", { scope: "col" }, name))));
  const cells = (row) => row.map((cell, column) => el("td", { "data-label": names[column] }, ...[cell].flat()));
  const body = el("tbody", {}, ...rows.map((row) => el("tr", {}, ...cells(row))));
  return el("table", { class: "reference" }, el("caption", {}, title), head, body);
}

function parameterRow({ name, in: where, schema, description, required }) {
  return [[el("code", {}, name)], where, typeOf(schema), withCode(description ?? (required ? "required" : ""))];
}

function answerRow([status, { description, content }]) {
  const schema = Object.values(content ?? {})[0]?.schema;
  return [status, schema ? typeOf(schema) : "none", withCode(description ?? "")];
}

function drawSchema([name, schema]) {
  const properties = Object.entries(schema.properties ?? {});
  const head = el("h3", { id: `schema-${name}` }, name);
  if (!properties.length) return el("div", {}, head, el("p", {}, typeOf(schema)));
  const rows = properties.map(([key, property]) => [[el("code", {}, key)], typeOf(property), withCode(property.description ?? "")]);
  return el("div", {}, head, ...paragraphs(schema.description ?? ""), drawTable("", ["Field", "Type", "Meaning"], rows));
}

// A schema's type in words: "integer 1 to 1000, default 50".
function typeOf(schema = {}) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  const choices = schema.anyOf ?? schema.oneOf;
  const base = choices ? choices.map(typeOf).join(" or ") : (values(schema) ?? plain(schema));
  const range = schema.minimum !== undefined && schema.maximum !== undefined ? ` ${schema.minimum} to ${schema.maximum}` : "";
  const fallback = schema.default === undefined || schema.default === null ? "" : `, default ${schema.default}`;
  return base + range + fallback;
}

function values({ const: only, enum: several }) {
  if (only !== undefined) return JSON.stringify(only);
  return several?.map((value) => JSON.stringify(value)).join(" | ");
}

function plain({ type, items, format }) {
  if (type === "array") return `list of ${typeOf(items)}`;
  return format ? `${type} (${format})` : (type ?? "anything");
}
