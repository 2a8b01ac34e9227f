// One unit: its channel enlarged, what it sees of the picture, and the arithmetic of its number.

import { inkOn, outline, prepare, unitAt } from "../../core/canvas.js";
import { pairs, short } from "../../core/dom.js";
import { go } from "../../core/router.js";
import { Refusal, ask } from "../../core/server.js";
import { ARROWS } from "../layers/card.js";
import { Arithmetic } from "./arithmetic.js";
import { References } from "./references.js";

const TEXT_ROOM = 30; // CSS pixels a cell needs to hold its number
const PLAY_MS = 600;
const SEEN = 180; // CSS pixels a side
const INPUTS = {
  image: "A pixel of the picture",
  input: "A normalised pixel",
  "input:": "A pixel less the mean",
};

export class UnitView {
  #exact = null; // values by channel, row and column, as numbers
  #layer = null; // the answer that `#exact` belongs to
  #asked = null; // the answer whose exact values were asked for
  #updates = 0; // how many have begun: only the newest one draws

  /**
   * @param {object} page see app.js
   * @param {(name: string) => import("../layers/card.js").Card | undefined} cardOf by the layer's name
   */
  constructor(page, cardOf) {
    this.page = page;
    this.cardOf = cardOf;
    this.card = null;
    const { find, store } = page;
    this.dialog = find("channel");
    [this.title, this.map, this.stack] = [find("channel-title"), find("channel-map"), find("channel-stack")];
    [this.seen, this.facts, this.readout] = [find("channel-seen"), find("channel-facts"), find("channel-readout")];
    this.arithmetic = new Arithmetic(find("arithmetic"), page, (answer) => this.#answered(answer));
    this.references = new References(find("references"), page);
    [this.play, this.steps] = [find("channel-play"), find("channel-motion")];
    this.player = null;
    this.closing = false; // by the page, which has another address already
    const leave = () => go({ layer: null, index: null }); // the dialog follows the address
    const actions = {
      back: () => this.#slide(-1),
      on: () => this.#slide(1),
      play: () => (this.player ? this.#pause() : this.#start()),
      return: () => history.back(),
      close: leave,
      previous: () => this.#step(-1),
      next: () => this.#step(1),
    };
    for (const [name, act] of Object.entries(actions)) find(`channel-${name}`).addEventListener("click", act);
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && leave());
    this.dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      leave();
    });
    this.dialog.addEventListener("close", () => {
      this.#pause();
      if (!this.closing) leave(); // the browser closed it without asking
      this.closing = false;
    });
    this.map.addEventListener("pointermove", (event) => event.buttons && this.#point(event));
    this.map.addEventListener("pointerdown", (event) => this.#point(event));
    this.dialog.addEventListener("keydown", (event) => this.#key(event));
    store.watch(["unit", "maps", "graph"], () => this.#update());
  }

  async #update() {
    const { store } = this.page;
    const update = ++this.#updates;
    const unit = store.get("unit");
    if (!unit || !store.get("graph") || !store.get("image") || !store.get("model").inspectable) {
      this.card = null;
      this.arithmetic.show(null);
      this.references.show(null);
      this.closing ||= this.dialog.open; // its event comes later
      return this.dialog.open && this.dialog.close();
    }
    const card = this.cardOf(unit.layer);
    const shown = card && (await card.decoded());
    if (update !== this.#updates) return; // closed, or changed again, while it was being decoded
    if (card && !shown) this.#want(unit.layer);
    this.card = shown ? card : null;
    [this.layer, this.index] = [unit.layer, unit.index];
    const opens = !this.dialog.open;
    if (opens) this.dialog.showModal();
    this.draw();
    // Not a button: the key that opened the dialog would press it.
    const place = this.card?.kind === "tiles" ? this.map : this.title;
    const { activeElement } = document;
    const lost = !this.dialog.contains(activeElement) || (activeElement === this.map && place !== this.map);
    if (opens || lost) place.focus({ preventScroll: true });
    card?.point(unit.index);
    if (this.card?.kind === "tiles") this.#fetch();
    this.arithmetic.show(unit);
    this.#refer();
  }

  /** Shows the references of the channel; `silent` says that it is 0 everywhere on this image. */
  #refer(silent = false) {
    const name = this.card?.node.shape.length === 1 ? "Unit" : "Channel";
    const channel = this.index.length === 1 ? this.index[0] : this.card && this.#place.channel;
    this.references.show(this.card && { layer: this.layer, channel, name, silent });
  }

  /** Asks for the maps of a layer once for each image; they arrive in the store. */
  async #want(layer) {
    const [image, graph] = ["image", "graph"].map((name) => this.page.store.get(name));
    const { wanted } = this;
    if (wanted?.layer === layer && wanted.image === image && wanted.graph === graph) return;
    const now = (this.wanted = { layer, image, graph });
    if (!(await this.page.load(layer)) && this.wanted === now) this.wanted = null;
  }

  get #place() {
    return this.card.unitOf(this.index);
  }

  /** Redraws everything, for another unit, image or window size. */
  draw() {
    if (!this.dialog.open) return;
    const tiles = this.card?.kind === "tiles";
    this.stack.parentElement.hidden = !tiles;
    const several = tiles && this.card.depth > 1;
    this.page.find("channel-choice").hidden = !several;
    const which = several ? `channel ${this.#place.channel} of ${this.card.depth} (from 0)` : this.index.join(", ");
    this.title.textContent = `${this.layer} · ${which}`;
    if (tiles) this.#drawMap();
    else {
      this.#pause();
      this.facts.replaceChildren();
      this.readout.textContent = "";
      this.page.drawSeen(this.seen, SEEN, null);
    }
  }

  /** What a unit without a map sees, from the server. */
  #answered({ receptive_field: field, layer, index, served }) {
    if (this.card?.kind === "tiles") return;
    this.#refer(served === 0);
    const known = INPUTS[layer.startsWith("input:") ? "input:" : layer];
    if (known) {
      const [row, column, channel] = layer === "image" ? index : [...index.slice(1), index[0]];
      this.page.drawSeen(this.seen, SEEN, { top: row, bottom: row, left: column, right: column });
      this.readout.textContent = `${known}: row ${row}, column ${column}, channel ${channel}.`;
      return;
    }
    const clipped = field?.clipped;
    const seen = clipped && { ...clipped, bottom: clipped.bottom - 1, right: clipped.right - 1, whole: false };
    this.page.drawSeen(this.seen, SEEN, seen);
    const node = this.cardOf(layer)?.node;
    this.readout.textContent = describeField(seen ?? (node ? this.page.field(node, 0, 0) : { whole: true }));
  }

  #drawMap() {
    const { card } = this;
    const { channel, row, column } = this.#place;
    const { layer, picture } = card.shown;
    const wide = this.dialog.clientWidth;
    const room = Math.min(420, wide < 600 ? wide - 40 : wide / 2, innerHeight * 0.5);
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
    outline(context, column * zoom, row * zoom, zoom, zoom);
    const field = this.page.field(card.node, row, column);
    this.page.drawSeen(this.seen, SEEN, field);
    this.facts.replaceChildren(
      ...pairs({
        type: card.node.op,
        shape: card.node.shape.join(" × "),
        "layer min": short(layer.minimum),
        "layer max": short(layer.maximum),
      }),
    );
    this.steps.textContent = card.node.kernel ? "slides the kernel over the map" : "steps through the map";
    const { value, exact } = this.#value(row, column);
    if (exact) this.#refer(this.#isSilent);
    const reading = `${exact ? "=" : "≈"} ${short(value)}`;
    const place = row < 0 ? `Token ${this.index[0]}, which has no place,` : `Row ${row}, column ${column}`;
    this.readout.textContent = `${place} ${reading}. ${describeField(field)}`;
  }

  #numbers(context, colours) {
    const { zoom } = this.layout;
    const { height, width, shown } = this.card;
    const { channel } = this.#place;
    context.font = `${Math.min(13, zoom / 3)}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    const widest = Math.max(-shown.layer.minimum, shown.layer.maximum);
    const fits = (digits) => context.measureText(`−${widest.toFixed(digits)}`).width < zoom - 4;
    const digits = [3, 2, 1].find(fits) ?? 0;
    for (let index = 0; index < height * width; index++) {
      const [row, column] = [Math.floor(index / width), index % width];
      const { value } = this.#value(row, column);
      const text = value === null ? "–" : value === 0 ? "0" : value.toFixed(digits).replace(/^-(?=.*[1-9])/, "−").replace("-", "");
      context.fillStyle = inkOn(colours[shown.picture.grey(channel, row, column)]);
      context.fillText(text, (column + 0.5) * zoom, (row + 0.5) * zoom);
    }
  }

  #value(row, column) {
    const exact = this.#layer === this.card.shown.layer ? this.#exact : null;
    const unit = { channel: this.#place.channel, row, column };
    if (!exact) return { value: this.card.valueAt(unit).value, exact: false };
    return { value: this.card.indexOf(unit).reduce((part, at) => part?.[at], exact), exact: true };
  }

  /** Whether the channel is 0 everywhere on this image, by its exact values. */
  get #isSilent() {
    const { height, width } = this.card;
    const places = Array.from({ length: height * width }, (_, at) => [Math.floor(at / width), at % width]);
    return places.every(([row, column]) => this.#value(row, column).value === 0);
  }

  async #fetch() {
    const { card } = this;
    const { layer } = card.shown;
    if (this.#layer === layer || this.#asked === layer) return;
    this.#asked = layer;
    const body = this.page.store.get("seenOf");
    try {
      const answer = await ask(`${this.page.path()}/feature-maps?layers=${encodeURIComponent(layer.name)}`, { body });
      if (this.card?.shown?.layer !== layer) return;
      [this.#exact, this.#layer] = [answer.layers[0].values, layer];
      this.draw();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error; // too many numbers for one answer: they stay approximate
    }
  }

  #move(changes) {
    this.index = this.card.indexOf({ ...this.#place, ...changes });
    go({ index: this.index.join(",") }, { replace: true });
  }

  #step(by) {
    const { depth } = this.card;
    this.#move({ channel: (this.#place.channel + by + depth) % depth });
  }

  /** Moves along the rows of the map; at the end it begins again. */
  #slide(by) {
    const { row, column } = this.#place;
    const { height, width } = this.card;
    const at = (row * width + column + by + height * width) % (height * width);
    this.#move({ row: Math.floor(at / width), column: at % width });
  }

  #start() {
    this.player = setInterval(() => this.card?.kind === "tiles" && this.#slide(1), PLAY_MS);
    this.play.textContent = "Pause";
  }

  #pause() {
    clearInterval(this.player);
    this.player = null;
    this.play.textContent = "Play";
  }

  #point(event) {
    const box = this.map.getBoundingClientRect();
    const unit = unitAt(this.layout, event.clientX - box.left, event.clientY - box.top);
    if (unit) this.#move({ row: unit.row, column: unit.column });
  }

  #key(event) {
    if (this.card?.kind !== "tiles") return;
    if (event.key === "PageUp") this.#step(-1);
    else if (event.key === "PageDown") this.#step(1);
    else if (event.target === this.map && ARROWS[event.key]) {
      const { row, column } = this.#place;
      const [down, across] = ARROWS[event.key];
      const inside = (value, size) => Math.min(size - 1, Math.max(0, value));
      this.#move({ row: inside(row + down, this.card.height), column: inside(column + across, this.card.width) });
    } else return;
    event.preventDefault();
  }
}

export function describeField({ top, left, bottom, right, whole, unknown }) {
  if (unknown) return "It is not known how much of the image it sees.";
  if (whole) return "It sees the whole image.";
  return `It sees rows ${top}–${bottom}, columns ${left}–${right} of the input.`;
}
