// Coloured tables of numbers, one for each channel: walked with arrow keys, edited, and marked.

import { inkOn, makePalette, toCss } from "../../core/canvas.js";
import { element } from "../../core/dom.js";

const CELL = 44; // CSS pixels at most
const LEGIBLE = 8; // of its number

export const number = (value, digits = 4) =>
  String(Number.isInteger(value) ? value : Number(value.toPrecision(digits))).replaceAll("-", "−");

/** Such as `2 × 3 × 3`, without a single channel or row. */
export const sizeText = (sizes) => sizes.filter((size, at) => size > 1 || at === 2).join(" × ");

export class Arrays {
  #current = 0; // where Tab leads

  /** @param {{pick?: Function, edit?: Function}} hooks called with [channel, row, column], and the new number */
  constructor(name, hooks = {}) {
    this.hooks = hooks;
    this.element = element("section", `lab-pane lab-${name}`);
    this.heading = element("h2", "");
    this.stack = element("div", "lab-stack");
    this.element.append(this.heading, this.stack);
    this.stack.addEventListener("focusin", ({ target }) => this.#arrive(target));
    this.stack.addEventListener("focusout", ({ target }) => this.#leave(target));
    this.stack.addEventListener("keydown", (event) => this.#key(event));
    this.stack.addEventListener("pointerover", ({ target }) => {
      if (hooks.pick && target.cellIndex >= 0) this.#arrive(target);
    });
  }

  /**
   * Shows arrays of the same size.
   * @param {object} options `room`: CSS pixels across; `box`: top, left, bottom and right of what is no padding
   */
  show(arrays, title, { room, look, grey, box = [0, 0, 999, 999], caption }) {
    const name = (c) => caption?.(c) ?? (arrays.length > 1 ? `channel ${c}` : "");
    const focused = this.stack.contains(document.activeElement);
    const values = arrays.flat(2);
    this.size = [arrays[0]?.length, arrays[0]?.[0].length ?? 1];
    const reach = values.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-9) * (grey ? 1 : 1.2);
    const colours = makePalette(grey ? "grey" : "signed", grey ? 0 : -reach, reach, look.dark);
    this.texts = values.map((value) => (value === null ? "" : number(value, 2)));
    const cell = Math.max(3, Math.min(CELL, Math.floor(room / this.size[1])));
    const font = Math.min(15, (1.5 * cell) / Math.max(...this.texts.map((text) => text.length)));
    this.box = box;
    this.heading.textContent = title;
    this.stack.style.setProperty("--cell", `${cell}px`);
    this.stack.style.fontSize = `${font}px`;
    this.stack.classList.toggle("lab-fine", font < LEGIBLE);
    this.cells = [];
    this.stack.replaceChildren(...arrays.map((rows, c) => {
      const [figure, table] = [element("figure", ""), element("table", "")];
      table.role = "grid";
      table.ariaLabel = `${title} ${name(c)}`;
      rows.forEach((row, y) => {
        const line = table.insertRow();
        row.forEach((value, x) => {
          const made = line.insertCell();
          const inside = y >= box[0] && x >= box[1] && y < box[2] && x < box[3];
          const colour = colours[Math.round(255 * (grey ? value / reach : 0.5 + value / reach / 2))];
          made[font < LEGIBLE ? "ariaLabel" : "textContent"] = this.texts[this.cells.push(made) - 1];
          made.style.background = toCss(colour);
          made.style.color = inkOn(colour);
          made.className = inside ? "" : "lab-pad";
          if (inside) made.tabIndex = -1;
          if (inside && font >= LEGIBLE && this.hooks.edit && !this.locked?.(c)) made.contentEditable = true;
        });
      });
      if (name(c)) figure.append(element("figcaption", "dim", name(c)));
      figure.append(table);
      return figure;
    }));
    if (this.cells[this.#current]?.className !== "") this.#current = this.cells.findIndex((one) => !one.className);
    const current = this.cells[this.#current];
    if (current) current.tabIndex = 0;
    if (focused) current?.focus({ preventScroll: true });
  }

  /** Outlines cells, [channel, rows, columns] each. */
  mark(parts) {
    const [height, width] = this.size;
    const marked = new Set(parts.flatMap(([c, rows, columns]) =>
      rows.flatMap((y) => columns.map((x) => this.cells[(c * height + y) * width + x]))));
    for (const cell of this.cells) cell.classList.toggle("lab-tap", marked.has(cell));
    if (this.hooks.pick) this.#rove([...marked][0]);
  }

  #rove(cell) {
    this.cells[this.#current].tabIndex = -1;
    this.#current = this.cells.indexOf(cell);
    cell.tabIndex = 0;
  }

  get #place() {
    const [height, width] = this.size;
    const at = this.#current;
    const row = Math.floor(at / width);
    return [Math.floor(row / height), (row % height) - this.box[0], (at % width) - this.box[1]];
  }

  #arrive(cell) {
    this.#rove(cell);
    this.hooks.pick?.(this.#place);
    if (cell.isContentEditable) getSelection().selectAllChildren(cell);
  }

  #leave(cell) {
    const at = this.cells.indexOf(cell);
    const text = cell.textContent;
    if (at < 0 || !cell.isContentEditable || text === this.texts[at]) return;
    cell.textContent = this.texts[at];
    const [place, value] = [this.#place, Number(text.replace("−", "-") || NaN)];
    if (Number.isFinite(value)) setTimeout(() => this.hooks.edit(place, value)); // once the focus has moved
  }

  #key(event) {
    const step = { ArrowUp: -this.size[1], ArrowDown: this.size[1], ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step && event.key !== "Enter") return;
    event.preventDefault();
    if (step) this.cells[this.#current + step]?.focus();
    else this.#leave(event.target);
  }
}
