// Input, kernel and output side by side, and beneath them the arithmetic of one output.

import { element } from "../../core/dom.js";
import { Arrays, number, sizeText } from "./arrays.js";
import { isPool, windowOf } from "./maths.js";

const TERMS = 18; // written out; the table shows the others

const factor = (value) => (value < 0 ? `(${number(value)})` : number(value));

export class Bench {
  /** @param {{look: Function, pick: Function, edit: Function}} hooks */
  constructor({ look, pick, edit }) {
    this.look = look;
    this.input = new Arrays("input", { edit: (place, value) => edit("input", place, value) });
    this.kernel = new Arrays("kernel", { edit: (place, value) => edit("kernel", [this.filter, ...place], value) });
    const typing = () => this.kernel.element.contains(document.activeElement); // into a filter, which then stays
    this.output = new Arrays("output", { pick: (place) => (typing() && place[0] !== this.filter) || pick(place) });
    this.products = new Arrays("products");
    this.panes = element("div", "lab-panes");
    this.panes.append(this.input.element, this.kernel.element, this.output.element);
    this.equation = element("p", "lab-equation");
    this.arithmetic = element("div", "lab-fact");
    this.arithmetic.append(this.products.element, this.equation);
  }

  /** Shows a result of `slide`; the kernel is as given. */
  show(result, kernel, grey) {
    const { padded, down, across, output, height, width, op, sizes, empty } = result;
    Object.assign(this, { result, given: kernel, filter: null });
    const [flat, look, wide] = [height === 1, this.look(), this.panes.clientWidth - 8];
    const share = flat || wide < 640 ? wide : wide * 0.38;
    const room = (arrays) => (arrays.length > 1 && arrays[0].length > 8 ? share / 2.1 : share);
    this.room = flat ? wide - 32 : Math.max(150, wide * 0.16);
    this.wider = flat ? 1 : 1.4;
    this.panes.dataset.op = isPool(op) ? "" : op;
    this.panes.classList.toggle("lab-flat", flat);
    const box = [down.before, across.before, down.before + height, across.before + width];
    const title = sizeText([padded.length, height, width]);
    const [above, beside] = [padded[0].length, padded[0][0].length];
    const wider = above > height || beside > width ? `, padded to ${sizeText([1, above, beside])}` : "";
    this.input.show(padded, `Input ${title}${wider}`, { room: room(padded), look, grey, box });
    const shown = empty ? [] : output;
    this.output.show(shown, empty ? "No output" : `Output ${sizeText(sizes)}`, { room: room(output), look });
  }

  /** Shows the arithmetic of an output [channel, row, column]. */
  select([o, y, x]) {
    const { op, output, down, across, applied, taps, bias, sizes, empty } = this.result;
    const pooled = isPool(op);
    const options = { room: this.room, look: this.look() };
    const given = this.given[o] ?? [];
    if (this.filter !== o) {
      this.filter = o;
      this.kernel.locked = (c) => c >= given.length;
      this.kernel.element.hidden = pooled;
      const title = this.given.length > 1 ? `Kernel of output ${o},` : "Kernel";
      const all = pooled ? [] : op === "convolution" ? [...given, ...applied[o]] : given;
      const caption = (c) => (c < given.length ? "" : "flipped ") + (given[1] ? `channel ${c % given.length}` : "");
      this.kernel.show(all, `${title} ${taps.join(" × ")}`, { ...options, caption });
    }
    this.products.element.hidden = empty;
    this.equation.textContent = "The window is larger than the padded input: there is no output.";
    if (empty) return;
    const values = windowOf(this.result, o, y, x);
    const weights = applied[o] ?? [];
    const products = pooled ? values
      : values.map((rows, c) => rows.map((row, i) => row.map((value, j) => value * weights[c][i][j])));
    this.products.show(products, pooled ? "In the window" : "Products", { ...options, room: this.room * this.wider });
    this.input.mark(values.map((_, c) => [pooled ? o : c, down.places[y], across.places[x]]));
    this.output.mark([[o, [y], [x]]]);
    const numbers = values.flat(2).filter((value) => value !== null);
    const factors = weights.flat(2);
    const terms = numbers.map((value, at) => factor(value) + (pooled ? "" : ` × ${factor(factors[at])}`));
    const list = terms.length > TERMS ? [`the sum of ${terms.length} ${pooled ? "numbers" : "products"}`] : terms;
    const sum = list.join(" + ") + (!pooled && bias?.[o] ? ` + bias ${factor(bias[o])}` : "");
    const text = op.includes("max") ? `max(${terms.join(", ")})` : pooled ? `(${sum}) / ${numbers.length}` : sum;
    this.equation.replaceChildren(
      element("span", "dim", `Output [${(sizes[0] > 1 ? [o, y, x] : [y, x]).join(", ")}]`),
      `${text} = `,
      element("strong", "", number(output[o][y][x])),
    );
  }
}
