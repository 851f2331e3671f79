// Shows openapi.json. All that it says is put into the page as text, never as markup.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete", "head", "options"];

function add(parent, tag, text = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  return parent.appendChild(element);
}

function row(table, cells, tag = "td") {
  const line = add(table, "tr");
  for (const cell of cells) add(line, tag, cell);
}

// The type of a schema in one line: names of other schemas, alternatives, lists.
function typeOf(schema) {
  if (!schema || typeof schema !== "object") return "anything";
  if (schema.$ref) return schema.$ref.split("/").pop();
  const several = schema.anyOf || schema.oneOf || schema.allOf;
  if (several) return several.map(typeOf).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.type === "array") return "list of " + typeOf(schema.items);
  return schema.type || "anything";
}

function described(schema) {
  const fallback = schema.default === undefined ? "" : ` (default ${JSON.stringify(schema.default)})`;
  return (schema.description || "") + fallback;
}

function fields(parent, title, names) {
  if (!names.length) return;
  add(parent, "h4", title);
  const table = add(parent, "table");
  row(table, ["name", "type", "meaning"], "th");
  for (const [name, schema, meaning] of names) row(table, [name, typeOf(schema), meaning || described(schema)]);
}

function showRoute(parent, path, method, route) {
  const box = add(parent, "details");
  const head = add(box, "summary");
  add(head, "b", method.toUpperCase());
  add(head, "span", path);
  add(box, "p", route.description || route.summary || "");
  fields(box, "Parameters", (route.parameters || []).map((one) => [one.name, one.schema || {}, one.description]));
  for (const [kind, content] of Object.entries((route.requestBody || {}).content || {})) {
    add(box, "p", `Body, ${kind}: ${typeOf(content.schema)}`);
    for (const example of Object.values(content.examples || {})) add(box, "pre", JSON.stringify(example.value));
  }
  const table = add(box, "table");
  for (const [status, answer] of Object.entries(route.responses || {})) {
    const schemas = Object.values(answer.content || {}).map((content) => typeOf(content.schema));
    row(table, [status, schemas.join(" or "), answer.description || ""]);
  }
}

function show(document_) {
  const routes = document.getElementById("routes");
  routes.replaceChildren();
  for (const [path, methods] of Object.entries(document_.paths)) {
    for (const method of METHODS) if (methods[method]) showRoute(routes, path, method, methods[method]);
  }
  add(routes, "h2", "Schemas");
  for (const [name, schema] of Object.entries((document_.components || {}).schemas || {})) {
    const box = add(routes, "details");
    add(box, "summary", name);
    add(box, "p", schema.description || "");
    fields(box, "Fields", Object.entries(schema.properties || {}));
  }
}

fetch("openapi.json")
  .then((response) => (response.ok ? response.json() : Promise.reject(new Error(`status ${response.status}`))))
  .then(show)
  .catch((error) => { document.getElementById("routes").textContent = `openapi.json cannot be shown: ${error.message}`; });
