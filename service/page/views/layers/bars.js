// A vector as bars around zero, in one or more rows.

import { prepare } from "../../core/canvas.js";
import { button, element } from "../../core/dom.js";

const HEIGHT = 44; // CSS pixels of a row
const GAP = 8;

export class Bars {
  /** @param {number} length @param {number} room CSS pixels across */
  constructor(length, room) {
    this.length = length;
    const most = Math.max(1, Math.floor(room / 3));
    this.perRow = Math.ceil(length / Math.ceil(length / most)); // rows of equal length
    this.width = Math.min(28, room / this.perRow);
    this.pageWidth = Math.min(room, this.perRow * this.width);
    this.pageHeight = Math.ceil(length / this.perRow) * (HEIGHT + GAP) - GAP;
  }

  /** Left, top, width and height of a bar's place. */
  boxOf(index) {
    const [column, row] = [index % this.perRow, Math.floor(index / this.perRow)];
    return [column * this.width, row * (HEIGHT + GAP), this.width, HEIGHT];
  }

  /** The index at a point, or null. */
  indexAt(x, y) {
    const index = Math.floor(y / (HEIGHT + GAP)) * this.perRow + Math.min(this.perRow - 1, Math.floor(x / this.width));
    return x >= 0 && index >= 0 && index < this.length ? index : null;
  }

  /** Draws the values, or only the zero line before there are any. */
  draw(canvas, values, { positive, negative, frame }) {
    const context = prepare(canvas, this.pageWidth, this.pageHeight);
    const [low, high] = values ? withZero(values) : [0, 1];
    const unit = HEIGHT / (high - low || 1);
    for (let index = 0; index < this.length; index++) {
      const [left, top, width] = this.boxOf(index);
      const zero = top + high * unit;
      context.fillStyle = frame;
      context.fillRect(left, Math.min(zero, top + HEIGHT - 1), width, 1);
      const value = values?.[index] ?? 0;
      context.fillStyle = value < 0 ? negative : positive;
      context.fillRect(left, zero - Math.max(0, value) * unit, width - (width > 5 ? 2 : 1), Math.abs(value) * unit);
    }
  }
}

/**
 * Named values around zero as rows of a list, the largest one marked; empty rows before there are values. The rows
 * stay when values change, so that a button keeps the focus, and a click that has begun.
 */
export function drawRows(list, names, values, open) {
  if (!list.childElementCount) list.append(...names.map((name, index) => makeRow(name, () => open(index))));
  const [least, most] = values ? withZero(values) : [0, 1];
  const best = values ? values.indexOf(rangeOf(values)[1]) : -1;
  [...list.children].forEach((row, index) => {
    const value = values?.[index] ?? 0;
    const [bar, number] = [row.querySelector(".bar"), row.querySelector(".value button")];
    row.classList.toggle("best", index === best);
    bar.classList.toggle("below", value < 0);
    bar.style.left = `${(100 * (Math.min(0, value) - least)) / (most - least || 1)}%`;
    bar.style.width = `${(100 * Math.abs(value)) / (most - least || 1)}%`;
    number.hidden = !values;
    number.textContent = values ? (values[index] ?? NaN).toFixed(2).replace("-", "−").replace("NaN", "–") : "";
  });
}

/** The smallest and the largest of some numbers, of which there may be too many for `Math.min(...)`; nulls do not count. */
export function rangeOf(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value === null) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

function withZero(values) {
  const [low, high] = rangeOf(values);
  return [Math.min(0, low), Math.max(0, high)];
}

function makeRow(name, open) {
  const [row, track, number] = [element("li", ""), element("span", "track"), element("span", "value")];
  track.append(element("span", "bar"));
  number.append(button("link", "", open));
  row.append(element("span", "label", name), track, number);
  return row;
}
