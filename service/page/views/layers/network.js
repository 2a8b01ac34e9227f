// The network from top to bottom: its layers as cards, in outlined blocks.

import { drawTiles } from "../../core/canvas.js";
import { element } from "../../core/dom.js";
import { ReceptiveFields } from "../../core/geometry.js";
import { Card } from "./card.js";

const OPEN_LIMIT = 24; // larger networks start with closed blocks
const MARGIN = "500px"; // painted this far before they scroll into view
const PREVIEW = 30; // CSS pixels a side
const PAUSE_MS = 100;

/** `layer1.0` of `layer1.0.conv1`, `features` of `features.3`, empty for a layer at the top. */
function blockOf(name) {
  return name.match(/^(.*?\.\d+(?:\.\d+)*)\./)?.[1] ?? name.slice(0, Math.max(0, name.lastIndexOf(".")));
}

export class Network {
  #cards = new Map();
  #blocks = [];
  #marked = [];

  /**
   * @param {HTMLElement} root
   * @param {{probe: Function, open: Function, want: Function, look: () => object}} hooks
   */
  constructor(root, hooks) {
    this.root = root;
    this.hooks = hooks;
    this.#cards = new Map();
    this.observer = new IntersectionObserver((entries) => this.#seen(entries), { rootMargin: MARGIN });
    new ResizeObserver(() => requestAnimationFrame(() => this.#layOut())).observe(root);
    addEventListener("scroll", () => { // what the keyboard reads moves along
      if (this.#marked[0]?.map === document.activeElement) this.#marked[0].reveal();
    });
  }

  get hasBlocks() {
    return this.#blocks.length > 0;
  }

  card(name) {
    return this.#cards.get(name);
  }

  /** Builds the cards of a graph; they are empty until `take`. */
  show(graph, labels, temperature) {
    this.#probe(null, null);
    this.observer.disconnect();
    this.receptiveFields = new ReceptiveFields(graph);
    this.#cards.clear();
    this.#blocks = [];
    const last = graph.nodes.at(-1);
    const host = {
      probe: (card, unit, spot) => this.#probe(card, unit, spot),
      open: this.hooks.open,
      jump: (name) => this.jump(name),
      details: this.hooks.details,
      look: this.hooks.look,
      input: graph.input,
      temperature,
    };
    graph.nodes.forEach((node, index) => {
      const names = node === last && node.shape.length === 1 && node.shape[0] === labels.length ? labels : null;
      const before = graph.nodes[index - 1]?.name ?? "input";
      this.#cards.set(node.name, new Card(node, { labels: names, before, host }));
    });
    const open = (this.eager = graph.nodes.length <= OPEN_LIMIT); // small networks are drawn at once
    this.root.classList.toggle("many", !open);
    this.root.replaceChildren(...runs(graph.nodes).map((run) => this.#place(run, open)));
    for (const card of this.#cards.values()) this.observer.observe(card.element);
    for (const card of this.#cards.values()) card.visible = this.eager;
    this.#layOut();
  }

  #place(run, open) {
    const cards = run.nodes.map((node) => this.#cards.get(node.name));
    if (run.nodes.length < 2 || !run.block) {
      const group = document.createDocumentFragment();
      group.append(...cards.map((card) => card.element));
      return group;
    }
    const end = run.nodes.at(-1);
    const details = element("details", "block");
    details.open = open;
    const summary = element("summary", "");
    const preview = element("canvas", "preview");
    const facts = `${run.nodes.length} layers · ${end.shape.join(" × ")}` +
      (end.receptive_field ? ` · receptive field ${end.receptive_field.join("×")}` : "");
    summary.append(element("span", "block-name", run.block), element("span", "dim", facts), preview);
    details.append(summary, ...cards.map((card) => card.element));
    const block = { details, preview, cards, end: this.#cards.get(end.name), summary, visible: false };
    details.addEventListener("toggle", () => this.#layOut());
    this.#blocks.push(block);
    this.observer.observe(summary);
    return details;
  }

  /** Distributes the server's layers to their cards; a null answer empties all. */
  take(answer) {
    const layers = new Map((answer?.layers ?? []).map((layer) => [layer.name, layer]));
    for (const [name, card] of this.#cards) if (!answer || layers.has(name)) card.take(layers.get(name) ?? null);
    for (const block of this.#blocks) if (!answer || layers.has(block.end.node.name)) this.#preview(block);
  }

  /** The server's answers for the layers that have come. */
  get layers() {
    return [...this.#cards.values()].map((card) => card.layer).filter(Boolean);
  }

  /** Names of the layers in view that have no values yet. */
  missing() {
    const cards = [...this.#cards.values()].filter((card) => card.visible);
    const ends = this.#blocks.filter((block) => block.visible).map((block) => block.end);
    const wanted = [...new Set([...cards, ...ends])].filter((card) => !card.layer && !card.tooLarge);
    return wanted.map((card) => card.node.name);
  }

  repaint() {
    for (const card of this.#cards.values()) if (card.visible) card.paint();
    for (const block of this.#blocks) this.#preview(block);
  }

  /** Opens the block of a layer, scrolls to it and, by default, focuses it. */
  jump(name, { focus = true } = {}) {
    this.hooks.jumped(name);
    const found = this.#cards.get(name)?.element;
    found?.closest("details")?.setAttribute("open", "");
    const show = () => found?.scrollIntoView({ behavior: "instant" });
    show();
    requestAnimationFrame(() => requestAnimationFrame(show)); // cards that came into view may have other heights
    const places = [...(found?.querySelectorAll(".map, .logits button, summary") ?? [])];
    if (focus) places.find((place) => place.checkVisibility())?.focus({ preventScroll: true });
  }

  /** Shows the layers whose name or type contains a text; returns how many. */
  filter(text) {
    const wanted = text.trim().toLowerCase();
    let count = 0;
    for (const card of this.#cards.values()) {
      const fits = `${card.node.name} ${card.node.op}`.toLowerCase().includes(wanted);
      card.element.hidden = !fits;
      count += fits;
    }
    for (const block of this.#blocks) {
      block.details.hidden = block.cards.every((card) => card.element.hidden);
      if (wanted && !block.details.hidden) block.details.open = true;
    }
    return count;
  }

  get allOpen() {
    return this.#blocks.every((block) => block.details.open);
  }

  fold(open) {
    for (const block of this.#blocks) block.details.open = open;
  }

  #seen(entries) {
    for (const { target, isIntersecting } of entries) {
      const block = this.#blocks.find((each) => each.summary === target);
      const seen = block ?? this.#cards.get(target.dataset.node);
      if (!seen) continue;
      seen.visible = isIntersecting || this.eager;
      if (isIntersecting && block) this.#preview(block);
      else if (isIntersecting) seen.paint();
    }
    clearTimeout(this.pause); // what is only scrolled past is not asked for
    this.pause = setTimeout(() => this.missing().length && this.hooks.want(), PAUSE_MS);
  }

  #layOut() {
    for (const card of this.#cards.values()) {
      const room = Math.floor(card.stack.parentElement.clientWidth - 2 * 16);
      if (room <= 0 || room === card.room) continue; // hidden in a closed block, or as before
      card.layOut(room);
      if (card.visible) card.paint();
    }
    for (const block of this.#blocks) this.#preview(block);
  }

  async #preview({ details, preview, end, visible }) {
    if (details.open || end.kind !== "tiles") return;
    const shown = visible ? await end.decoded() : null;
    const room = preview.parentElement.clientWidth - 2 * 16;
    const count = Math.min(end.depth, Math.floor(room / (PREVIEW + 3)), 16);
    const zoom = PREVIEW / Math.max(end.height, end.width);
    const [stepX, stepY] = [end.width * zoom + 3, end.height * zoom + 3];
    const layout = { count, columns: count, height: end.height, width: end.width, zoom, stepX, stepY,
      pageWidth: count * stepX - 3, pageHeight: stepY - 3 };
    drawTiles(preview, layout, shown?.picture, shown && end.colours(), this.hooks.look().frame);
  }

  #probe(card, unit, spot) {
    for (const marked of this.#marked) marked.mark(null);
    this.#marked = [];
    if (!unit) return this.hooks.probe(null);
    const { channel, row, column } = unit;
    this.#mark(card, { first: channel, last: channel, top: row, bottom: row, left: column, right: column });
    for (const name of card.node.parents) {
      const part = this.receptiveFields.window(card.node, name, unit);
      if (part && this.#cards.get(name)?.visible) this.#mark(this.#cards.get(name), part);
    }
    this.hooks.probe({ card, unit, spot, field: this.receptiveFields.field(card.node, unit.row, unit.column) });
  }

  #mark(card, part) {
    card.mark(part);
    this.#marked.push(card);
  }
}

/** Neighbouring nodes of the same block together. */
function runs(nodes) {
  const found = [];
  for (const node of nodes) {
    const block = blockOf(node.name);
    if (block && found.at(-1)?.block === block) found.at(-1).nodes.push(node);
    else found.push({ block, nodes: [node] });
  }
  return found;
}
