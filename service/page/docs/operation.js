// One operation: its parameters and body as a form, a request, and what it answers.

import { button, element } from "../core/dom.js";
import { authorization } from "../core/server.js";
import { prose, schemaView, typeText } from "./schema.js";

const SHOWN_CHARACTERS = 100_000;
const MODEL_NAMES = ["model", "name"];
const SHOWN_HEADERS = ["content-type", "x-request-id", "retry-after", "etag"];

/** Everything about an operation; `models` are the names of the served ones. */
export function operationView(openapi, models, { path, method, operation }) {
  const view = document.createElement("div");
  if (operation.description) view.append(prose(operation.description));
  const parameters = (operation.parameters ?? []).map((one) => parameterRow(one, models, openapi));
  if (parameters.length) view.append(element("h3", "", "Parameters"), tableOf(parameters));
  const body = operation.requestBody && bodyForm(operation.requestBody, openapi);
  if (body) view.append(element("h3", "", "Body"), prose(operation.requestBody.description ?? ""), body.form);
  const [send, result] = [element("div", "send"), element("div", "result")];
  result.setAttribute("role", "status");
  const ask = button("primary", "Send", async () => {
    ask.disabled = true;
    await show(result, method, addressOf(path, parameters), headersOf(parameters), body?.content());
    ask.disabled = false;
  });
  send.append(ask);
  view.append(send, result, element("h3", "", "Answers"), answers(operation.responses, openapi));
  return view;
}

function tableOf(rows) {
  const table = element("table", "table");
  table.append(...rows.map((row) => row.element));
  return table;
}

/** A parameter with its field. */
function parameterRow(parameter, models, openapi) {
  const row = document.createElement("tr");
  const name = element("td", "name", parameter.name + (parameter.required ? " *" : ""));
  const about = element("td", "");
  about.append(prose(`${typeText(parameter.schema, openapi)}\n${parameter.description ?? ""}`));
  const field = parameter.schema.enum ? choice(parameter) : textField(parameter, models);
  field.setAttribute("aria-label", parameter.name);
  const cell = document.createElement("td");
  cell.append(field);
  row.append(name, element("td", "dim", parameter.in), about, cell);
  return { element: row, parameter, value: () => field.value };
}

function choice(parameter) {
  const list = document.createElement("select");
  if (!parameter.required) list.append(new Option("", ""));
  list.append(...parameter.schema.enum.map((value) => new Option(value)));
  return list;
}

function textField(parameter, models) {
  const field = document.createElement("input");
  field.type = "text";
  if (parameter.required) {
    field.value = MODEL_NAMES.includes(parameter.name) ? models[0] ?? "" : parameter.example ?? 1;
  } else {
    field.placeholder = parameter.example ?? "";
  }
  return field;
}

/** A field for each media type of a body, of which one is shown; `content` is the body with its type. */
function bodyForm(requestBody, openapi) {
  const form = element("div", "body");
  const fields = Object.entries(requestBody.content).map(([type, media]) => ({ type, ...mediaField(type, media) }));
  const list = document.createElement("select");
  list.setAttribute("aria-label", "Media type of the body");
  list.append(...fields.map(({ type }) => new Option(type)));
  const chosen = () => fields[list.selectedIndex];
  const schema = document.createElement("div");
  const update = () => {
    for (const one of fields) one.field.hidden = one !== chosen();
    schema.replaceChildren(schemaView(requestBody.content[chosen().type].schema, openapi));
  };
  list.addEventListener("change", update);
  update();
  form.append(list, ...fields.map(({ field }) => field), schema);
  return { form, content: () => chosen().content() };
}

function mediaField(type, media) {
  if (type === "application/json") {
    const field = document.createElement("textarea");
    field.setAttribute("aria-label", "JSON");
    field.spellcheck = false;
    field.value = JSON.stringify(media.example ?? {}, null, 2);
    return { field, content: () => new Blob([field.value], { type }) };
  }
  const field = document.createElement("input");
  field.type = "file";
  field.setAttribute("aria-label", "File");
  if (type !== "multipart/form-data") return { field, content: () => field.files[0] ?? new Blob([], { type }) };
  field.multiple = true;
  const content = () => {
    const form = new FormData();
    for (const file of field.files) form.append("images", file);
    return form;
  };
  return { field, content };
}

/** The address relative to this page, so that a prefix in front of the server does no harm. */
function addressOf(path, parameters) {
  let filled = path;
  const query = new URLSearchParams();
  for (const { parameter, value } of parameters) {
    if (parameter.in === "path") {
      const parts = value().split("/").map(encodeURIComponent);
      filled = filled.replace(`{${parameter.name}}`, parts.join("/"));
    } else if (parameter.in === "query" && value()) query.append(parameter.name, value());
  }
  return `.${filled}${query.size ? "?" : ""}${query}`;
}

function headersOf(parameters) {
  const given = parameters.filter(({ parameter, value }) => parameter.in === "header" && value());
  return Object.fromEntries(given.map(({ parameter, value }) => [parameter.name, value()]));
}

async function show(result, method, address, headers, body) {
  const started = performance.now();
  try {
    const request = { method, body, headers: { ...headers, ...authorization() }, cache: "no-store" };
    const answer = await fetch(address, request);
    const content = await answer.blob();
    const took = `${Math.round(performance.now() - started)} ms, ${content.size} bytes`;
    const status = element("span", answer.ok ? "status" : "status refused", `${answer.status} ${answer.statusText}`);
    const head = element("p", "");
    head.append(status, element("span", "dim", ` in ${took}: `), element("code", "", decodeURI(address.slice(1))));
    const named = SHOWN_HEADERS.filter((name) => answer.headers.has(name));
    const lines = named.map((name) => `${name}: ${answer.headers.get(name)}`).join("\n");
    result.replaceChildren(head, plain(lines), await contentView(content));
  } catch (error) {
    result.replaceChildren(element("p", "status refused", `No answer: ${error.message}`));
  }
}

async function contentView(content) {
  if (content.type.startsWith("image/")) {
    const image = document.createElement("img");
    image.alt = "The answer";
    image.src = URL.createObjectURL(content);
    return image;
  }
  if (content.type.startsWith("application/json")) return plain(pretty(await content.text()));
  if (content.type.startsWith("text/")) return plain(await content.text());
  const link = element("a", "", "Save the answer");
  link.href = URL.createObjectURL(content);
  link.download = "answer";
  return link;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function plain(text) {
  const cut = text.length > SHOWN_CHARACTERS ? `${text.slice(0, SHOWN_CHARACTERS)}\n...` : text;
  const made = element("pre", "", cut);
  made.tabIndex = 0; // to be scrolled with keys
  return made;
}

function answers(responses, openapi) {
  const made = element("div", "answers");
  for (const [status, response] of Object.entries(responses)) {
    const [details, summary] = [document.createElement("details"), document.createElement("summary")];
    const types = Object.keys(response.content ?? {}).join(", ");
    summary.append(element("span", "name", status), element("span", "dim", ` ${types}`));
    details.append(summary, prose(response.description));
    const schema = response.content?.["application/json"]?.schema;
    if (schema) details.append(schemaView(schema, openapi));
    made.append(details);
  }
  return made;
}
