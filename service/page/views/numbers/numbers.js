// What the layers cost, and how much of the picture they see.

import { outline, prepare } from "../../core/canvas.js";
import { boxes, button, element, percent } from "../../core/dom.js";
import { moves, seesAll, seesText } from "../../core/geometry.js";
import { Newest, Refusal, ask } from "../../core/server.js";

const SIDE = 240; // CSS pixels of the picture
const MOST = 0.9; // a part with more than this is taken apart
const BYTES = 4; // of a float32
const FACTORS = [["G", 1e9], ["M", 1e6], ["k", 1e3], ["", 1]];
const FRAME = `<div class="numbers"><div class="numbers-main"><dl></dl><div class="numbers-says"></div>
<div class="numbers-scroller"><table><caption class="spoken">The layers; a bar compares with the largest</caption>
<thead><tr></tr></thead><tbody></tbody></table></div></div>
<figure><canvas role="img" aria-label="Receptive fields of the layers' central positions on the picture"></canvas>
<figcaption></figcaption></figure></div>`;

const sizeOf = ({ shape }) => shape.reduce((a, b) => a * b, 1);
const whole = (value) => value.toLocaleString("en");
const sum = (nodes, of) => nodes.reduce((total, node) => total + of(node), 0);
const largest = (nodes, of) => nodes.reduce((most, node) => (of(node) > of(most) ? node : most));

/** A count with three digits, a factor and a unit, such as 1.82 GB. */
function brief(value, unit = "") {
  const [sign, factor] = FACTORS.find(([, each]) => value >= each) ?? ["", 1];
  return `${Number((value / factor).toPrecision(3))} ${sign}${unit}`.trim();
}

const SILENT = new WeakMap(); // by node: channels that are 0 everywhere on the image, and all channels

// `of` sorts; those with `write` are added up and compared.
const COLUMNS = [
  { title: "Layer", of: (_, index) => index },
  { title: "Type" },
  { title: "Shape" },
  { title: "Field", of: ({ receptive_field: field }) => (field ? field[0] * field[1] : Infinity) },
  { title: "Parameters", of: ({ parameters }) => parameters, write: whole, what: "holds % of the parameters" },
  { title: "MACs", of: ({ macs }) => macs, write: (n) => brief(n), what: "computes % of the multiply-accumulates" },
  { title: "Silent", of: (node) => SILENT.get(node)?.[0] ?? 0 },
];
const COUNTS = COLUMNS.filter(({ write }) => write);

/** What the network's parts hold, largest first: [[path, count]]. */
function partsOf(nodes, of, depth = 1) {
  const found = new Map();
  for (const node of nodes) {
    const path = node.name.split(".").slice(0, depth).join(".");
    found.set(path, (found.get(path) ?? 0) + of(node));
  }
  const parts = [...found].sort(([, a], [, b]) => b - a);
  const [path, count] = parts[0];
  const finer = nodes.filter(({ name }) => name.startsWith(`${path}.`));
  return count > MOST * sum(nodes, of) && finer.length > 1 ? partsOf(finer, of, depth + 1) : parts;
}

/** How many layers have as much as the first that has the most. */
function othersLike(nodes, of) {
  return nodes.filter((node) => of(node) === of(largest(nodes, of))).length - 1;
}

function sentences(nodes, { height, width }) {
  const texts = COUNTS.filter(({ of }) => sum(nodes, of)).map(({ of, what }) => {
    const share = (count) => percent(count / sum(nodes, of));
    const [[first, most], [second, next] = []] = partsOf(nodes, of);
    const top = largest(nodes, of);
    const more = othersLike(nodes, of);
    const which = more ? `layers are ${top.name} and ${more} more, each` : `layer is ${top.name}`;
    const alone = of(top) < most ? ` The largest ${which} with ${share(of(top))}.` : "";
    const others = next ? `, ${second} ${share(next)}` : "";
    return `${first} ${what.replace("%", share(most))}${others}.${alone}`;
  });
  const top = largest(nodes, sizeOf);
  const share = percent(sizeOf(top) / sum(nodes, sizeOf));
  const more = othersLike(nodes, sizeOf);
  const which = more ? `s are those of ${top.name} and ${more} more, each` : ` is that of ${top.name}:`;
  texts.push(`The largest activation${which} ${whole(sizeOf(top))} numbers, ${share}.`);
  const all = nodes.find((node) => {
    const field = node.receptive_field;
    return field ? field[0] >= height && field[1] >= width : seesAll(node);
  });
  if (all) texts.push(`From ${all.name} on, a position can see as much as the whole picture.`);
  return texts.map((text) => element("p", "", text.replaceAll(" %", "\u00a0%")));
}

export class NumbersView {
  #nodes = [];
  #column = COLUMNS[0];
  #down = false; // whether the largest is first
  #graph = null; // that the table shows
  #asked = null; // the image whose silent channels were asked for last
  #counting = new Newest((image, signal) => this.#count(image, signal));

  /** @param {HTMLElement} root @param {object} page */
  constructor(root, page) {
    this.page = page;
    this.root = root;
    page.store.watch(["graph", "tab", "seen"], () => this.#show());
  }

  #show() {
    const { store } = this.page;
    const graph = store.get("graph");
    if (store.get("tab") !== "numbers" || !graph) return;
    if (graph !== this.#graph) this.#build(graph);
    this.#paint(null);
    const image = store.get("seen") && store.get("image");
    if (image === this.#asked || !store.get("model").inspectable) return;
    this.#asked = image;
    this.#counting.ask(image, { abort: true });
  }

  #build(graph) {
    this.#graph = graph;
    const nodes = (this.#nodes = graph.nodes);
    this.root.innerHTML = FRAME;
    const parts = ["dl", ".numbers-says", "thead tr", "tbody"];
    const [totals, says, head, body] = parts.map((one) => this.root.querySelector(one));
    const [parameters, macs] = COUNTS.map(({ of }) => sum(nodes, of));
    const facts = {
      layers: nodes.length,
      parameters: whole(parameters),
      "multiply-accumulates": brief(macs),
      "weights in float32": brief(parameters * BYTES, "B"),
      "activations of all layers": brief(sum(nodes, sizeOf) * BYTES, "B"),
    };
    totals.append(...boxes(facts));
    const lack = "Silent channels are not counted: this model was exported without model.onnx.";
    this.silent = element("p", "numbers-silent", this.page.store.get("model").inspectable ? "" : lack);
    this.#asked = null;
    says.append(...sentences(nodes, graph.input), this.silent);
    this.heads = COLUMNS.map((column) => {
      const made = element("th", "", column.of ? "" : column.title);
      made.scope = "col";
      if (column.of) made.append(button("", column.title, () => this.#sort(column)));
      return made;
    });
    head.append(...this.heads);
    this.body = body;
    this.rows = new Map(nodes.map((node) => [node, this.#row(node)]));
    const under = ({ target }) => target.closest("tr")?.dataset.layer;
    body.addEventListener("click", (event) => getSelection().isCollapsed && this.page.jump(under(event)));
    for (const type of ["pointerover", "focusin"]) body.addEventListener(type, (event) => this.#paint(under(event)));
    for (const type of ["pointerleave", "focusout"]) body.addEventListener(type, () => this.#paint(null));
    this.#sort(COLUMNS[0], false);
  }

  /** Asks which channels are 0 everywhere on the image; null forgets. */
  async #count(image, signal) {
    const [graph, counted] = [this.#graph, []];
    if (image) {
      const query = "values=uint8&channels=0&statistics=true";
      try {
        const answer = await ask(`${this.page.path()}/feature-maps?${query}`, { body: image, signal });
        counted.push(...answer.layers);
      } catch (error) {
        if (!(error instanceof Refusal)) throw error; // the other columns stay
      }
    }
    if (graph !== this.#graph || image !== this.#asked) return;
    const countOf = ({ name, statistics: { dead, channels } }) => [name, [dead.length, channels.length]];
    const found = new Map(counted.map(countOf));
    for (const [node, row] of this.rows) {
      const [silent, all] = (!moves(node) && found.get(node.name)) || [];
      if (all) SILENT.set(node, [silent, all]);
      else SILENT.delete(node);
      row.lastChild.textContent = all ? `${whole(silent)} of ${whole(all)}` : "–";
    }
    const { of } = COLUMNS.at(-1);
    const layers = this.#nodes.filter(of).length;
    const text = layers
      ? `Silent channels, 0 everywhere on this image: ${sum(this.#nodes, of)} in ${layers} of the layers.`
      : "No channel is silent, that is, 0 everywhere on this image.";
    this.silent.textContent = counted.length ? text : "";
  }

  #row(node) {
    const row = document.createElement("tr");
    row.dataset.layer = node.name;
    const name = element("th", "");
    name.scope = "row";
    name.append(button("link", `\u200e${node.name}\u200e`, () => {})); // the marks keep its order from right to left
    name.title = node.name;
    const field = node.receptive_field?.join("×") ?? (seesAll(node) ? "all" : "–");
    row.append(name, ...[node.op, node.shape.join(" × "), field].map((text) => element("td", "", text)));
    for (const { of, write } of COUNTS) {
      const count = of(node);
      const cell = element("td", "", count ? write(count) : "–");
      row.append(cell);
      if (!count) continue;
      cell.title = `${whole(count)}, ${percent(count / sum(this.#nodes, of))} of all`;
      cell.append(element("span", "numbers-bar"));
      cell.lastChild.style.setProperty("--share", count / of(largest(this.#nodes, of)));
    }
    row.append(element("td", "", "–"));
    return row;
  }

  #sort(column, down = column === this.#column ? !this.#down : column !== COLUMNS[0]) {
    [this.#column, this.#down] = [column, down];
    const order = this.#nodes.map((node, index) => [column.of(node, index), node]);
    order.sort(([a], [b]) => (a === b ? 0 : a < b === down ? 1 : -1));
    this.body.append(...order.map(([, node]) => this.rows.get(node)));
    this.heads.forEach((head, index) => {
      if (COLUMNS[index] !== column) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", down ? "descending" : "ascending");
    });
  }

  /** Draws the field of every layer's central position, and outlines that of one. */
  #paint(name) {
    const { height, width } = this.#graph.input;
    const zoom = SIDE / Math.max(height, width);
    const context = prepare(this.root.querySelector("canvas"), width * zoom, height * zoom);
    const seen = this.page.store.get("seen");
    context.imageSmoothingEnabled = zoom < 1;
    if (seen) context.drawImage(seen, 0, 0, width * zoom, height * zoom);
    const box = (node) => {
      const [, rows = 1, columns = 1] = node.shape;
      const { top, left, bottom, right } = this.page.field(node, rows >> 1, columns >> 1);
      const [x, y, across, down] = [left, top, right - left + 1, bottom - top + 1].map((length) => length * zoom);
      return [x + 1, y + 1, Math.max(1, across - 2), Math.max(1, down - 2)];
    };
    const chosen = this.#nodes.find((node) => node.name === name);
    context.globalAlpha = chosen ? 0.3 : 1;
    const boxes = new Map(this.#nodes.filter((node) => node.receptive_field).map(box).map((one) => [one.join(), one]));
    for (const one of boxes.values()) {
      for (const [colour, thick] of [["#000", 2.5], ["#fff", 1]]) {
        [context.strokeStyle, context.lineWidth] = [colour, thick];
        context.strokeRect(...one);
      }
    }
    context.globalAlpha = 1;
    const parts = ["What the central position of each layer sees, to scale. Point at a row for its own."];
    if (chosen) {
      outline(context, ...box(chosen));
      const { receptive_field: field, jump } = chosen;
      parts[0] = element("strong", "", name);
      parts[1] = field ? ` sees ${field.join("×")} pixels` : `: ${seesText(chosen)}.`;
      if (field) parts[2] = jump ? `, and moves ${jump.join("×")} from place to place.` : ".";
    }
    this.root.querySelector("figcaption").replaceChildren(...parts);
  }
}
