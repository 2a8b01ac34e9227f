// JSON Schema in words: types in a line, members of objects below it.

import { element } from "../core/dom.js";

const MOST_VALUES = 12;

/** Text with `code` in it, and with its line breaks. */
export function prose(text, tag = "p", className = "prose") {
  const made = element(tag, className);
  for (const [index, part] of text.trim().split("`").entries()) {
    made.append(index % 2 ? element("code", "", part) : part);
  }
  return made;
}

/** The schema that a reference means; parts of allOf are laid over one another. */
export function resolve(schema, openapi) {
  if (schema.$ref) {
    const name = schema.$ref.split("/").at(-1);
    return { ...resolve(openapi.components.schemas[name], openapi), ...schema, $ref: undefined, title: name };
  }
  if (!schema.allOf) return schema;
  return schema.allOf.map((part) => resolve(part, openapi)).reduce(overlaid);
}

function overlaid(below, above) {
  const both = { ...below, ...above };
  for (const [name, member] of Object.entries(above.properties ?? {})) {
    const beneath = below.properties?.[name];
    both.properties = { ...below.properties, ...both.properties, [name]: beneath ? overlaid(beneath, member) : member };
  }
  return both;
}

/** The type in a line. */
export function typeText(schema, openapi) {
  const found = resolve(schema, openapi);
  if ("const" in found) return JSON.stringify(found.const);
  if (found.enum) {
    const values = found.enum.slice(0, MOST_VALUES).map((value) => JSON.stringify(value)).join(" | ");
    return found.enum.length > MOST_VALUES ? `${values} | ...` : values;
  }
  if (found.oneOf) return found.oneOf.map((one) => typeText(one, openapi)).join(" or ");
  const types = [found.type ?? "anything"].flat();
  const named = types.map((type) => {
    if (type === "array") return `array of ${typeText(found.items ?? {}, openapi)}`;
    return type === "object" ? found.title ?? type : type;
  });
  return named.join(" or ") + limits(found);
}

function limits(schema) {
  const from = schema.minimum ?? schema.exclusiveMinimum ?? schema.minItems;
  const to = schema.maximum ?? schema.maxItems;
  let text = "";
  if (schema.format) text += `, ${schema.format}`;
  if (from !== undefined && from !== 0) text += ` from ${from}`;
  if (to !== undefined) text += ` to ${to}`;
  if (schema.default !== undefined) text += `, ${JSON.stringify(schema.default)} by default`;
  return text;
}

/** The object that a schema describes, also within arrays; null if there is none. */
function objectWithin(schema, openapi) {
  const found = resolve(schema, openapi);
  if (found.properties) return [found];
  if (found.oneOf) return found.oneOf.flatMap((one) => objectWithin(one, openapi) ?? []);
  return found.items ? objectWithin(found.items, openapi) : null;
}

/** The members of the objects in a schema, each with those within it, which are made when opened. */
export function schemaView(schema, openapi) {
  const made = element("div", "schema");
  for (const object of objectWithin(schema, openapi) ?? []) {
    if (object.title) made.append(element("p", "dim", object.title));
    for (const [name, member] of Object.entries(object.properties)) {
      made.append(memberView(name, member, object.required?.includes(name), openapi));
    }
  }
  return made;
}

function memberView(name, member, required, openapi) {
  const line = [element("span", "name", name), ` ${typeText(member, openapi)}${required ? "" : ", optional"}`];
  const described = resolve(member, openapi).description;
  if (described) line.push(prose(`: ${described}`, "span", "dim"));
  if (!objectWithin(member, openapi)?.length) {
    const paragraph = element("p", "");
    paragraph.append(...line);
    return paragraph;
  }
  const [details, summary] = [document.createElement("details"), document.createElement("summary")];
  summary.append(...line);
  details.append(summary);
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) details.append(schemaView(member, openapi));
  });
  return details;
}
