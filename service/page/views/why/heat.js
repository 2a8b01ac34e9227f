// A map of what speaks for a class over the image, with a legend, and the value under the pointer or cursor.

import { outline, prepare } from "../../core/canvas.js";
import { element, percent, short } from "../../core/dom.js";

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const MOST = 460; // CSS pixels across

export class Heat {
  /** @param {() => {opacity: number, signed: boolean, mean: number[], look: object}} settings */
  constructor(settings) {
    this.settings = settings;
    this.element = element("figure", "why-heat");
    const parts = ["figcaption", "canvas", "div", "p", "p"].map((tag) => element(tag, ""));
    [this.title, this.canvas, this.legend, this.readout, this.note] = parts;
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    this.readout.setAttribute("aria-live", "polite");
    this.element.append(...parts);
    this.canvas.onpointermove = ({ offsetX, offsetY }) => this.#read(offsetY / this.zoom, offsetX / this.zoom);
    this.canvas.onpointerleave = this.canvas.onblur = () => this.#read(-1, -1);
    this.canvas.onkeydown = (event) => {
      const step = ARROWS[event.key];
      if (!step) return;
      event.preventDefault();
      const [row, column] = this.at ?? this.peak;
      const [y, x] = [row + step[0], column + step[1]];
      if (y in this.answer.map.values && x in this.answer.map.values[y]) this.#read(y, x);
    };
  }

  /** Takes an answer of /explain, and the image that it explains. */
  show(answer, seen) {
    const { map: { height, width, values }, class: { label, probability } } = answer;
    Object.assign(this, { answer, seen, hidden: 0, at: null, height, width, flat: values.flat() });
    this.order = this.flat.map((_, index) => index).sort((a, b) => this.flat[b] - this.flat[a]);
    this.peak = [Math.floor(this.order[0] / width), this.order[0] % width];
    this.title.textContent = `What speaks for ${label}, ${percent(probability)}`;
    this.canvas.setAttribute("aria-label", `Map for ${label}; the arrow keys read its values`);
    this.paint();
  }

  /** Where the highest place lies, in words. */
  get place() {
    const [row, column] = [this.peak[0] / this.height, this.peak[1] / this.width].map((share) => Math.floor(3 * share));
    return ["upper ", "", "lower "][row] + ["left", "centre", "right"][column];
  }

  /** What speaks for the class, with the sum 1; a map that is positive everywhere begins at its lowest value. */
  get shares() {
    const low = Math.max(0, this.answer.minimum);
    const positive = this.flat.map((value) => Math.max(0, value - low));
    const sum = positive.reduce((a, b) => a + b);
    return positive.map((value) => value / (sum || 1));
  }

  paint() {
    const room = Math.min(MOST, this.element.clientWidth);
    if (!this.answer || !room) return;
    const { opacity, signed, mean, look } = this.settings();
    const { minimum, maximum } = this.answer;
    const both = signed && minimum < 0;
    const low = Math.max(0, minimum);
    const high = both ? Math.max(maximum, -minimum) : maximum;
    const toRgb = (hex) => hex.match(/\w\w/g).map((part) => parseInt(part, 16));
    const [red, blue] = [look.positive, look.negative].map(toRgb);
    const heat = new ImageData(this.width, this.height);
    this.order.forEach((index, rank) => {
      const value = this.flat[index];
      const share = value < 0 && both ? -value / high : Math.max(0, value - low) / (high - low || 1);
      const colour = rank < this.hidden ? [...mean, 255] : [...(value < 0 ? blue : red), 255 * opacity * share];
      heat.data.set(colour, 4 * index);
    });
    const layer = new OffscreenCanvas(this.width, this.height);
    layer.getContext("2d").putImageData(heat, 0, 0);
    this.zoom = room / this.width;
    const size = [room, this.height * this.zoom];
    const context = prepare(this.canvas, ...size);
    context.filter = "grayscale(1) contrast(0.6)"; // so that only the map has a hue
    context.drawImage(this.seen, 0, 0, ...size);
    context.filter = "none";
    context.drawImage(layer, 0, 0, ...size);
    if (this.at) outline(context, this.at[1] * this.zoom, this.at[0] * this.zoom, this.zoom, this.zoom);
    const ramp = element("span", "");
    const colours = [...(both ? [look.negative] : []), "transparent", look.positive];
    ramp.style.background = `linear-gradient(90deg, ${colours})`;
    ramp.style.opacity = opacity;
    this.legend.replaceChildren(both ? `against ${short(-high)}` : short(low), ramp, `for ${short(high)}`);
  }

  /** Covers the highest places with the mean colour, as the deletion curve does. */
  cover(count) {
    this.hidden = count;
    this.paint();
  }

  #read(y, x) {
    const [row, column] = [y, x].map(Math.floor);
    const value = this.answer.map.values[row]?.[column];
    this.at = value === undefined ? null : [row, column];
    this.readout.textContent = this.at ? `row ${row}, column ${column}: ${short(value)}` : "";
    this.paint();
  }
}
