// The reference of the HTTP interface, made from the OpenAPI document of the server itself.

import { element } from "../core/dom.js";
import { ask, keepToken } from "../core/server.js";
import { operationView } from "./operation.js";
import { prose } from "./schema.js";

const FIRST_TAG = "convscope";
const byId = (id) => document.getElementById(id);

function summaryOf({ path, method, operation }) {
  const summary = element("summary", "");
  summary.append(
    element("span", `method ${method}`, method.toUpperCase()),
    element("code", "", path),
    element("span", "dim", operation.summary),
  );
  return summary;
}

/** One operation, folded; what it contains is made when it is first opened. */
function folded(openapi, models, found) {
  const details = element("details", "operation");
  details.id = found.operation.operationId;
  details.append(summaryOf(found));
  const fill = () => {
    if (details.open && details.childElementCount === 1) details.append(operationView(openapi, models, found));
  };
  details.addEventListener("toggle", fill);
  return details;
}

function operationsByTag(openapi) {
  const tags = new Map([[FIRST_TAG, []]]);
  for (const [path, methods] of Object.entries(openapi.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const [tag] = operation.tags;
      if (!tags.has(tag)) tags.set(tag, []);
      tags.get(tag).push({ path, method, operation });
    }
  }
  return tags;
}

function show(openapi, models) {
  const sections = [prose(openapi.info.description)];
  for (const [tag, operations] of operationsByTag(openapi)) {
    const section = document.createElement("section");
    section.append(element("h2", "", tag), ...operations.map((found) => folded(openapi, models, found)));
    sections.push(section);
  }
  byId("reference").replaceChildren(...sections);
  openNamed();
}

/** Opens the operation that the address names: /docs#classify. */
function openNamed() {
  const named = byId(location.hash.slice(1));
  if (!named?.classList.contains("operation")) return;
  named.open = true;
  named.scrollIntoView();
}

function filter() {
  const wanted = byId("find").value.toLowerCase();
  for (const section of document.querySelectorAll("#reference section")) {
    const operations = [...section.querySelectorAll(".operation")];
    for (const one of operations) {
      const summary = one.firstElementChild.textContent.toLowerCase();
      one.hidden = !summary.includes(wanted) && !one.id.includes(wanted);
    }
    section.hidden = operations.every((one) => one.hidden);
  }
}

async function load() {
  try {
    const openapi = await ask("openapi.json");
    const { models } = await ask("v1/models").catch(() => ({ models: [] }));
    byId("notice").hidden = true;
    show(openapi, models.map((model) => model.name));
  } catch (error) {
    byId("notice").hidden = false;
    byId("notice-text").textContent = error.message;
    byId("token-form").hidden = error.status !== 401;
  }
}

byId("find").addEventListener("input", filter);
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(byId("token").value);
  load();
});
window.addEventListener("hashchange", openNamed);
load();
