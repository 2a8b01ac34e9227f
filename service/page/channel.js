// One enlarged channel: its exact values, and the receptive field of each.

import { ask } from "./server.js";
import { element, short } from "./card.js";
import { inkOn, outline, prepare, unitAt } from "./tiles.js";

const TEXT_ROOM = 30; // CSS pixels a cell needs to hold its number
const SEEN = 180; // CSS pixels a side

export class Channel {
  #exact = null; // values by channel, row and column, as numbers
  #layer = null; // the answer that `#exact` belongs to

  /**
   * @param {(name: string) => HTMLElement} find by id
   * @param {{drawSeen: (canvas, side, field) => void, field: Function, image: () => Blob, path: () => string}} page
   */
  constructor(find, page) {
    this.page = page;
    this.dialog = find("channel");
    [this.title, this.map, this.stack] = [find("channel-title"), find("channel-map"), find("channel-stack")];
    [this.seen, this.facts, this.readout] = [find("channel-seen"), find("channel-facts"), find("channel-readout")];
    find("channel-close").addEventListener("click", () => this.dialog.close());
    find("channel-previous").addEventListener("click", () => this.#step(-1));
    find("channel-next").addEventListener("click", () => this.#step(1));
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.map.addEventListener("pointermove", (event) => this.#point(event));
    this.map.addEventListener("pointerdown", (event) => this.#point(event));
    this.dialog.addEventListener("keydown", (event) => this.#key(event));
  }

  open(card, channel) {
    if (!card.shown) return;
    [this.card, this.channel] = [card, channel];
    this.unit = { channel, row: card.height >> 1, column: card.width >> 1 };
    if (!this.dialog.open) this.dialog.showModal();
    this.map.focus();
    this.draw();
    this.#fetch();
  }

  /** Redraws everything for another channel, image or window size. */
  draw() {
    if (!this.dialog.open || !this.card.shown) return;
    const { card, channel } = this;
    const { layer, picture } = card.shown;
    this.title.textContent = `${card.node.name} · channel ${channel} of 0–${card.depth - 1}`;
    const room = Math.min(560, this.stack.parentElement.clientWidth - 8, innerHeight * 0.62);
    const longest = Math.max(card.height, card.width);
    const zoom = room >= longest ? Math.floor(room / longest) : room / longest;
    const { height, width } = card;
    const [across, down] = [width * zoom, height * zoom];
    this.layout = { count: 1, columns: 1, height, width, zoom, stepX: across, stepY: down };
    const context = prepare(this.map, across, down);
    const colours = card.colours();
    const [left, top] = picture.corner(channel);
    context.drawImage(picture.coloured(colours), left, top, width, height, 0, 0, across, down);
    if (zoom >= TEXT_ROOM) this.#numbers(context, colours);
    const { row, column } = this.unit;
    outline(context, column * zoom, row * zoom, zoom, zoom);
    const field = this.page.field(card.node, row, column);
    this.page.drawSeen(this.seen, SEEN, field);
    const facts = {
      type: card.node.op,
      shape: card.node.shape.join(" × "),
      "layer min": short(layer.minimum),
      "layer max": short(layer.maximum),
    };
    this.facts.replaceChildren(...Object.entries(facts).flatMap(([name, text]) => [element("dt", "", name), element("dd", "", text)]));
    const { value, exact } = this.#value(row, column);
    const reading = `${exact ? "=" : "≈"} ${short(value)}`;
    this.readout.textContent = `Row ${row}, column ${column} ${reading}. ${describeField(field)}`;
  }

  #numbers(context, colours) {
    const { zoom } = this.layout;
    const { height, width, shown } = this.card;
    context.font = `${Math.min(13, zoom / 3)}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    const widest = Math.max(-shown.layer.minimum, shown.layer.maximum);
    const fits = (digits) => context.measureText(`−${widest.toFixed(digits)}`).width < zoom - 4;
    const digits = [3, 2, 1].find(fits) ?? 0;
    for (let index = 0; index < height * width; index++) {
      const [row, column] = [Math.floor(index / width), index % width];
      const { value } = this.#value(row, column);
      const text = value === 0 ? "0" : value.toFixed(digits).replace(/^-(?=.*[1-9])/, "−").replace("-", "");
      context.fillStyle = inkOn(colours[shown.picture.grey(this.channel, row, column)]);
      context.fillText(text, (column + 0.5) * zoom, (row + 0.5) * zoom);
    }
  }

  #value(row, column) {
    const exact = this.#layer === this.card.shown.layer ? this.#exact : null;
    if (!exact) return { value: this.card.valueAt({ channel: this.channel, row, column }).value, exact: false };
    const tile = this.card.node.shape.length === 3 ? exact[this.channel] : exact;
    return { value: tile[row][column], exact: true };
  }

  async #fetch() {
    const { layer } = this.card.shown;
    if (this.#layer === layer) return;
    const body = this.page.image();
    try {
      const answer = await ask(`${this.page.path()}/feature-maps?layers=${encodeURIComponent(layer.name)}`, { body });
      if (this.card.shown?.layer !== layer) return;
      [this.#exact, this.#layer] = [answer.layers[0].values, layer];
      this.draw();
    } catch (error) {
      this.readout.textContent = `Approximate values only: ${error.message}`; // too many numbers for one answer
    }
  }

  #step(by) {
    this.channel = (this.channel + by + this.card.depth) % this.card.depth;
    this.unit.channel = this.channel;
    this.draw();
  }

  #point(event) {
    const box = this.map.getBoundingClientRect();
    const unit = unitAt(this.layout, event.clientX - box.left, event.clientY - box.top);
    if (!unit) return;
    this.unit = { ...unit, channel: this.channel };
    this.draw();
  }

  #key(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key === "PageUp") this.#step(-1);
    else if (event.key === "PageDown") this.#step(1);
    else if (event.target === this.map && steps[event.key]) {
      const [down, across] = steps[event.key];
      this.unit.row = Math.min(this.card.height - 1, Math.max(0, this.unit.row + down));
      this.unit.column = Math.min(this.card.width - 1, Math.max(0, this.unit.column + across));
      this.draw();
    } else return;
    event.preventDefault();
  }
}

export function describeField({ top, left, bottom, right, whole }) {
  return whole ? "It sees the whole image." : `It sees rows ${top}–${bottom}, columns ${left}–${right} of the input.`;
}
