// One layer of the network on the page: its properties, and its feature maps of the image.

import { COMPACT, Picture, arrange, cornerOf, drawTiles, makePalette } from "../../core/canvas.js";
import { outline, prepare, toCss, unitAt } from "../../core/canvas.js";
import { button, element, short } from "../../core/dom.js";
import { gridOf, seesText } from "../../core/geometry.js";
import { term } from "../guide/guide.js";
import { termOf } from "../guide/terms.js";
import { Bars, drawRows, rangeOf } from "./bars.js";

const [REST, LINE] = [107, 17]; // CSS pixels of a card besides its maps, and of the line that names other parents
const MOST_ROWS = 40; // classes listed with their names; more become plain bars
export const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

const by = (pair) => pair.join("×");
const same = (pair) => (pair[0] === pair[1] ? String(pair[0]) : by(pair));

export class Card {
  /**
   * @param {object} node a row of the node table
   * @param {{labels: string[] | null, before: string, host: object}} context `labels` for the logits; `before` is the
   *   node above; the host has probe(card, unit, spot), open(card, index), jump(name), look(), and the network's input
   */
  constructor(node, { labels, before, host }) {
    this.node = node;
    this.host = host;
    this.labels = labels;
    this.layer = this.shown = null; // the server's last answer; the drawn state: {layer, picture}
    this.order = null; // the channel at each place
    this.visible = this.all = this.tooLarge = false; // `tooLarge`: the server does not send it
    const { shape } = node;
    this.grid = gridOf(shape, host.input);
    [this.height, this.width] = this.grid?.grid ?? shape;
    this.depth = this.grid ? shape[this.grid.axis] : 1;
    const places = this.grid ? this.height * this.width : shape.length;
    this.kind = places === 1 || ![2, 3].includes(shape.length) ? "bars" : "tiles";
    if (labels && labels.length <= MOST_ROWS) this.kind = "rows";
    this.length = node.shape.reduce((a, b) => a * b, 1);
    this.cursor = this.kind === "tiles" ? this.central(0) : { channel: 0, row: 0, column: 0 };
    this.#build(before);
  }

  #build(before) {
    const { node } = this;
    this.element = element("article", `card ${this.kind}`);
    this.element.dataset.node = node.name;
    const head = element("header", "");
    const shape = element("span", "shape", node.shape.join(" × "));
    const kind = termOf(node.op);
    const op = element("span", "op", kind ? "" : node.op);
    if (kind) op.append(term(node.op, kind));
    head.append(element("h3", "", node.name), op, shape);
    this.more = button("more", "", () => this.#toggle());
    this.more.hidden = this.kind !== "tiles" || this.depth <= COMPACT;
    head.append(this.more);
    this.element.append(head, this.#about());
    const joins = node.parents.length && node.parents.join() !== before;
    if (joins) this.element.append(this.#parents());
    this.rest = REST + (joins ? LINE : 0);
    this.stack = element(this.kind === "rows" ? "ol" : "div", this.kind === "rows" ? "logits" : "stack");
    if (this.kind !== "rows") {
      this.map = element("canvas", "map");
      this.map.tabIndex = 0;
      this.map.setAttribute("role", "img");
      this.overlay = element("canvas", "overlay");
      this.overlay.setAttribute("aria-hidden", "true");
      this.stack.append(this.map, this.overlay);
      this.#listen();
    }
    this.scale = element("p", "scale");
    this.details = this.host.details(this);
    this.element.append(this.stack, this.scale, this.details.element);
    this.#title();
  }

  /** The layer's numbers; each term has its explanation. */
  #about() {
    const { kernel, stride, padding, dilation, parameters, macs, receptive_field: field } = this.node;
    const parts = [];
    if (kernel) {
      parts.push([term("kernel"), ` ${by(kernel)}`], [term("stride"), ` ${same(stride)}`]);
      parts.push([term("padding"), ` ${same(padding)}`]);
    }
    if (dilation && Math.max(...dilation) > 1) parts.push([term("dilation"), ` ${same(dilation)}`]);
    if (parameters) parts.push([`${parameters.toLocaleString("en")} `, term("parameters")]);
    if (macs) parts.push([`${macs.toLocaleString("en")} `, term("multiplications")]);
    const { height, width } = this.host.input;
    const larger = field && field[0] > height && field[1] > width ? ", larger than the image" : "";
    parts.push(field ? [term("receptive field"), ` ${by(field)}${larger}`] : [seesText(this.node)]);
    const line = element("p", "about");
    parts.forEach((part, at) => line.append(at ? " · " : "", ...part));
    return line;
  }

  #parents() {
    const line = element("p", "from", "from ");
    this.node.parents.forEach((name, index) => {
      if (index) line.append(" and ");
      const link = button("link", name, () => this.host.jump(name));
      line.append(name === "input" ? "the input" : link);
    });
    return line;
  }

  #title() {
    this.more.textContent = this.all ? `Show ${COMPACT}` : `Show all ${this.depth}`;
    const bars = this.kind === "bars";
    const what = bars ? `${this.length} values` : `${this.depth} channels of ${this.height}×${this.width}`;
    const keys = `Arrow keys read a value${bars ? "" : ", Enter enlarges a channel"}.`;
    this.map?.setAttribute("aria-label", `${this.node.name}: ${what}. ${keys}`);
  }

  #toggle() {
    this.all = !this.all;
    this.#title();
    this.layOut(this.room);
    this.paint();
  }

  #listen() {
    this.map.addEventListener("pointermove", (event) => {
      if (event.pointerType === "touch") return;
      this.host.probe(this, this.#under(event), { x: event.clientX, y: event.clientY });
    });
    this.map.addEventListener("pointerleave", () => this.host.probe(this, null));
    this.map.addEventListener("click", (event) => {
      const unit = this.#under(event);
      if (unit) this.host.open(this, this.indexOf(unit));
    });
    this.map.addEventListener("focus", () => this.reveal());
    this.map.addEventListener("blur", () => {
      this.away = false;
      this.host.probe(this, null);
    });
    this.map.addEventListener("keydown", (event) => this.#key(event));
  }

  #under(event) {
    const box = this.map.getBoundingClientRect();
    return this.unitAt(event.clientX - box.left, event.clientY - box.top);
  }

  #key(event) {
    if (event.key === "Enter") this.host.open(this, this.indexOf(this.cursor));
    const step = ARROWS[event.key];
    if (!step) return;
    event.preventDefault();
    let { channel, row, column } = this.cursor;
    if (this.kind === "bars") {
      const index = this.#indexOf(this.cursor) + step[0] * this.layout.perRow + step[1];
      this.cursor = this.#unitOf(Math.min(this.length - 1, Math.max(0, index)));
    } else {
      [row, column] = [row + step[0], column + step[1]];
      const { columns, count } = this.layout;
      let place = this.order ? this.order.indexOf(channel) : channel;
      if (column < 0) [place, column] = [place - 1, this.width - 1];
      if (column >= this.width) [place, column] = [place + 1, 0];
      if (row < 0) [place, row] = [place - columns, this.height - 1];
      if (row >= this.height) [place, row] = [place + columns, 0];
      if (place >= 0 && place < count) this.cursor = { channel: this.order?.[place] ?? place, row, column };
    }
    this.#announce();
  }

  /** Reads the value under the keyboard's cursor, if the keyboard is here. */
  reveal() {
    if (!this.away && this.map.matches(":focus-visible")) this.#announce();
  }

  /** Moves the keyboard's cursor to a unit that was opened; `away` if its channel is not among those shown. */
  point(index) {
    const unit = this.unitOf(index);
    const place = this.order?.indexOf(unit.channel) ?? unit.channel;
    this.away = this.kind === "tiles" && (place >= this.layout?.count || unit.row < 0);
    if (!this.away) this.cursor = unit;
  }

  #announce() {
    const [x, y] = this.boxOf(this.cursor);
    const top = this.map.getBoundingClientRect().top + y;
    if (top < 0 || top > innerHeight - 80) scrollBy({ top: top - innerHeight / 2, behavior: "instant" });
    const box = this.map.getBoundingClientRect();
    this.host.probe(this, this.cursor, { x: box.left + x, y: box.top + y });
  }

  #indexOf(unit) {
    return this.node.shape.length === 3 ? unit.channel : unit.column;
  }

  /** The unit's position in the layer's value, as /unit takes it. */
  indexOf({ channel, row, column }) {
    const { axis, extra } = this.grid ?? {};
    if (axis === 1) return [extra + row * this.width + column, channel];
    return axis === 2 ? [row, column, channel] : [channel, row, column].slice(3 - this.node.shape.length);
  }

  /** The unit at a position of the layer's value; a token without a place is in row -1. */
  unitOf(index) {
    const { axis, extra } = this.grid ?? {};
    const place = index[0] - extra;
    const row = Math.floor(place / this.width);
    if (axis === 1) return { channel: index[1], row, column: place - row * this.width };
    const [channel, y, x] = axis === 2 ? [index[2], index[0], index[1]] : [0, 0, ...index].slice(-3);
    return { channel, row: y, column: x };
  }

  /** The unit in the middle of a channel. */
  central(channel) {
    return { channel, row: this.height >> 1, column: this.width >> 1 };
  }

  #unitOf(index) {
    return this.node.shape.length === 3 ? { channel: index, row: 0, column: 0 } : { channel: 0, row: 0, column: index };
  }

  /** Reserves space for the maps before there are any. */
  layOut(room) {
    if (this.kind === "rows" || !room) return;
    this.room = room;
    if (this.kind === "tiles") {
      const count = this.all ? this.depth : Math.min(COMPACT, this.depth);
      this.layout = { ...arrange(count, this.height, this.width, room, devicePixelRatio), order: this.order };
    } else {
      this.layout = new Bars(this.length, room);
    }
    this.stack.style.width = `${this.layout.pageWidth}px`;
    this.stack.style.height = `${this.layout.pageHeight}px`;
    this.element.style.containIntrinsicBlockSize = `auto ${this.layout.pageHeight + this.rest}px`;
  }

  /** Draws the channels in another order; null is that of the network. */
  sort(order) {
    this.order = order;
    this.layOut(this.room);
    this.paint();
  }

  unitAt(x, y) {
    if (this.kind === "tiles") return unitAt(this.layout, x, y);
    const index = this.layout.indexAt(x, y);
    return index === null ? null : this.#unitOf(index);
  }

  /** Left, top, width and height of a unit on the page. */
  boxOf(unit) {
    if (this.kind === "tiles") {
      const [left, top] = cornerOf(this.layout, unit.channel);
      const { zoom } = this.layout;
      return [left + unit.column * zoom, top + unit.row * zoom, zoom, zoom];
    }
    return this.layout.boxOf(this.#indexOf(unit));
  }

  /** Takes the server's answer for this layer, or null. */
  take(layer) {
    this.layer = layer;
    this.details.update(layer);
    if (!layer) this.shown = null;
    if (this.visible || !layer) this.paint();
  }

  /** The picture to draw, decoded once. */
  async decoded() {
    const { layer } = this;
    if (!layer || this.shown?.layer === layer) return this.shown;
    const picture = await Picture.decode(layer.tiles);
    if (this.layer === layer) this.shown = { layer, picture, flat: layer.values?.flat(2) };
    return this.shown;
  }

  async paint() {
    if (this.kind !== "rows" && !this.layout) return;
    const shown = await this.decoded();
    const values = shown && this.kind !== "tiles" ? this.#vector() : null;
    if (this.kind === "rows") drawRows(this.stack, this.labels, values, (at) => this.host.open(this, [at]));
    else if (this.kind === "bars") this.layout.draw(this.map, values, this.host.look());
    else drawTiles(this.map, this.layout, shown?.picture, shown && this.colours(), this.host.look().frame);
    this.element.classList.toggle("filled", Boolean(shown));
    this.#paintScale(shown?.layer, values);
  }

  #vector() {
    return Array.from({ length: this.length }, (_, index) => this.valueAt(this.#unitOf(index)).value);
  }

  colours() {
    const { palette, dark } = this.host.look();
    return makePalette(palette, this.shown.layer.minimum, this.shown.layer.maximum, dark);
  }

  #paintScale(layer, values) {
    if (!layer) return this.scale.replaceChildren();
    const parts = [`min ${short(layer.minimum)}`, `mean ${short(layer.mean)}`, `max ${short(layer.maximum)}`];
    if (this.labels && values) parts[2] += ` (${this.labels[values.indexOf(rangeOf(values)[1])]})`;
    const { temperature } = this.host;
    if (this.labels && temperature !== 1) parts.push(`softmax after division by the temperature ${short(temperature)}`);
    const texts = parts.map((part) => element("span", "", part));
    if (this.kind !== "tiles") return this.scale.replaceChildren(...texts);
    const ramp = element("canvas", "ramp");
    const context = prepare(ramp, 128, 8);
    this.colours().forEach((colour, grey) => {
      context.fillStyle = toCss(colour);
      context.fillRect(grey / 2, 0, 1, 8);
    });
    this.scale.replaceChildren(texts[0], ramp, texts[2], texts[1]);
  }

  /** The value of a unit: exact for vectors, otherwise from its grey level. */
  valueAt(unit) {
    if (!this.shown) return null;
    const { layer, picture, flat } = this.shown;
    if (flat) return { value: flat[this.#indexOf(unit)], exact: true };
    const grey = picture.grey(unit.channel, unit.row, unit.column);
    if (unit.row < 0) return { value: null, exact: false };
    const step = (layer.maximum - layer.minimum) / 255; // values between two levels of grey are not told apart
    const value = (layer.minimum + grey * step).toFixed(Math.min(20, Math.max(0, -Math.floor(Math.log10(step || 1)))));
    return { value: Number(value), exact: false };
  }

  /** Outlines a part of tiles: {first, last, top, left, bottom, right}; null removes all outlines. */
  mark(part) {
    if (!this.overlay || !this.layout) return;
    if (!part) {
      this.overlay.width = 0;
      return;
    }
    const context = prepare(this.overlay, this.layout.pageWidth, this.layout.pageHeight);
    if (this.kind === "bars") return outline(context, ...this.boxOf(this.#unitOf(part.first + part.left)));
    for (let channel = part.first; channel <= part.last; channel++) {
      if (this.order ? this.order.indexOf(channel) >= this.layout.count : channel >= this.layout.count) continue;
      const [left, top, zoom] = this.boxOf({ channel, row: part.top, column: part.left });
      outline(context, left, top, (part.right - part.left + 1) * zoom, (part.bottom - part.top + 1) * zoom);
    }
  }
}
