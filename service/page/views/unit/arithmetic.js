// The arithmetic of one unit: windows, kernels, products, the sum, and a way back to everything it is made of.

import { inkOn, makePalette, prepare, toCss } from "../../core/canvas.js";
import { button, element, short } from "../../core/dom.js";
import { Newest } from "../../core/server.js";
import { flat, listTerms, sizes } from "./terms.js";

const CHANNELS = 4; // input channels shown at first, those with the largest sums
const TERMS = 12; // terms listed at first, those with the largest products
const CELL = 30; // CSS pixels of a cell that holds a number; smaller without
const SMALL = 12;
const WORDS = {
  weighted_sum: "a sum of inputs times weights",
  product: "a product of two values",
  maximum: "the largest input",
  minimum: "the smallest input",
  copy: "a copy of one input",
  function: "a function of its input",
  normalization: "a normalised input",
  softmax: "a share of the exponentials",
  unknown: "computed in an unknown way",
  // some formulas have words of their own
  pixel: "a pixel of the picture as the network takes it",
  "x / c": "its input divided by a number",
  "x + b": "its input plus or minus a number",
};
const EXTREMES = { maximum: [1, "the largest first"], minimum: [-1, "the smallest first"] };
const TURNED = "The axes change order: image is row, column, channel; layers channel, row, column.";
const ROUNDING = 1e-6; // of the terms' sizes: a few units in the last place of float32

export class Arithmetic {
  #unit = null;
  #asking = new Newest((unit, signal) => this.#ask(unit, signal));
  #again = () => this.#unit && this.show(this.#unit);

  /**
   * @param {HTMLElement} root
   * @param {object} page see app.js
   * @param {(answer: object) => void} answered takes each answer of /unit
   */
  constructor(root, page, answered) {
    this.root = root;
    root.tabIndex = -1;
    this.page = page;
    this.answered = answered;
    this.channels = CHANNELS;
    this.terms = TERMS;
    this.answer = null;
  }

  /** Shows a unit {layer, index}; null empties the view. */
  show(unit) {
    this.#unit = unit;
    if (!unit) {
      this.#asking.drop();
      this.answer = null;
      this.root.replaceChildren();
      return;
    }
    this.root.setAttribute("aria-busy", "true"); // the numbers are those of the unit before
    this.#asking.ask(unit);
  }

  async #ask(unit, signal) {
    const { layer, index } = unit;
    const body = this.page.store.get("image");
    const path = `${this.page.path()}/unit?layer=${encodeURIComponent(layer)}&index=${index.join(",")}`;
    try {
      const answer = await this.page.ask(path, { body, signal }, this.#again);
      if (answer && this.#unit) return this.#take(answer);
      this.answer = null;
      this.root.replaceChildren();
    } finally {
      if (!this.#unit || this.#unit === unit) this.root.removeAttribute("aria-busy");
    }
  }

  #take(answer) {
    if (answer.layer !== this.answer?.layer) [this.channels, this.terms] = [CHANNELS, TERMS];
    this.answer = answer;
    this.answered(answer);
    this.#paint();
  }

  #paint() {
    const { answer } = this;
    const parts = [this.#headline()];
    if (answer.kind in EXTREMES) parts.push(this.#largest());
    const windowed = ({ products, values }) => products && sizes(products).length === 3 && flat(values).length > 1;
    const sums = answer.kind === "weighted_sum" ? answer.terms : [];
    const windows = sums.filter(windowed);
    for (const group of windows) parts.push(this.#windows(group));
    parts.push(this.#list(), this.#following());
    const focused = this.root.contains(document.activeElement);
    this.root.replaceChildren(...parts.filter(Boolean));
    if (focused) this.root.focus({ preventScroll: true }); // the link that was followed is gone
  }

  #headline() {
    const { answer } = this;
    const box = element("div", "unit-headline");
    const equation = element("p", "unit-equation");
    const name = element("strong", "", `${answer.layer} [${answer.index.join(", ")}]`);
    const { formula, terms, value } = answer;
    equation.append(name, ` is ${WORDS[formula] ?? WORDS[answer.kind]}`);
    if (formula && terms.length) equation.append(": ", element("code", "", formula));
    const details = Object.entries(answer.details).map(([key, value]) => `${key} = ${exact(value)}`);
    const sum = element("p", "unit-sum");
    const served = element("strong", "unit-served", exact(answer.served));
    if (value === null) sum.append("The server computed ", served, ".");
    else if (!terms.length) sum.append("Its value is ", served, ".");
    else {
      const far = Math.abs(answer.difference);
      const near = far <= ROUNDING * reach(answer);
      const shown = element("strong", "unit-value");
      [shown.textContent, served.textContent] = alike(value, answer.served, near);
      const same = far ? `the same up to rounding (${short(far)})` : "the same";
      const verdict = near ? same : `which differs by ${short(far)}`;
      sum.append(working(answer), shown, "; the server computed ", served, `, ${verdict}.`);
    }
    box.append(equation);
    if (terms[0]?.source === "image") box.append(element("p", "dim", TURNED));
    if (details.length) box.append(element("p", "dim", details.join(", ")));
    box.append(sum);
    return box;
  }

  /** For each input channel: its window, the kernel, the products and their sum. */
  #windows(group) {
    const sums = group.channel_sums ?? [];
    const order = sums.map((sum, at) => at).sort((a, b) => Math.abs(sums[b]) - Math.abs(sums[a]));
    const shown = order.slice(0, this.channels).sort((a, b) => a - b);
    const table = element("div", "unit-windows");
    const heads = ["input", "window", "× kernel", "= products", "their sum"];
    table.append(...heads.map((name) => element("span", "dim", name)));
    const parts = [group.values, group.weights, group.products].map((one) => [one, largest(one)]);
    for (const at of shown) {
      const channel = group.axes[0][at];
      const grids = parts.map(([one, scale], which) => this.#grid(one[at], scale, which ? null : { group, channel }));
      table.append(element("span", "unit-channel", `${group.source} ${channel}`), ...grids);
      table.append(element("span", "unit-number", exact(sums[at])));
    }
    const box = element("section", "unit-section");
    const hidden = order.length - shown.length;
    box.append(table);
    if (hidden > 0) {
      const others = order.slice(this.channels).reduce((sum, at) => sum + sums[at], 0);
      const more = button("link", `${hidden} further channels add up to ${exact(others)}; show them`, () => {
        this.channels = Math.min(order.length, this.channels + 32);
        this.#paint();
      });
      box.append(more);
    }
    return box;
  }

  /** The window that the largest or smallest number is taken from. */
  #largest() {
    const [group] = this.answer.terms;
    if (sizes(group.values).length !== 3 || group.values.length > 1) return null;
    const box = element("section", "unit-section");
    box.append(this.#grid(group.values[0], largest(group.values), { group, channel: group.axes[0][0] }));
    return box;
  }

  #grid(rows, scale, walk) {
    const [height, width] = [rows.length, rows[0].length];
    const cell = width <= 5 && height <= 5 ? CELL + 8 : width <= 7 ? CELL : SMALL;
    const canvas = element("canvas", walk ? "unit-grid unit-walk" : "unit-grid");
    const context = prepare(canvas, width * cell, height * cell);
    const { dark, frame } = this.page.look();
    const colours = makePalette("signed", -scale, scale, dark);
    context.font = "10.5px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const value = rows[row][column];
        const word = colours[Math.round(255 * (0.5 + value / scale / 2))];
        context.fillStyle = toCss(word);
        context.fillRect(column * cell, row * cell, cell, cell);
        if (cell <= SMALL) continue;
        context.strokeStyle = frame;
        context.strokeRect(column * cell + 0.5, row * cell + 0.5, cell - 1, cell - 1);
        context.fillStyle = inkOn(word);
        const text = value === 0 ? "0" : brief(value);
        context.fillText(text, (column + 0.5) * cell, (row + 0.5) * cell);
      }
    }
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", rows.map((row) => row.map(short).join(" ")).join("; "));
    if (walk) this.#connect(canvas, cell, walk);
    return canvas;
  }

  /** A click on a window's cell opens the unit there. */
  #connect(canvas, cell, { group, channel }) {
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      const [row, column] = [event.clientY - box.top, event.clientX - box.left].map((far) => Math.floor(far / cell));
      return [group.axes[1][row], group.axes[2][column]];
    };
    canvas.addEventListener("click", (event) => {
      const [row, column] = at(event);
      this.#walk(group.source, [channel, row, column]);
    });
  }

  #walk(source, index) {
    const shape = this.answer.inputs.find((one) => one.source === source)?.shape;
    const inside = index.every((place, axis) => place >= 0 && (!shape || place < shape[axis]));
    if (inside) this.page.open(source, index);
  }

  /** The terms with the largest products, each a way to the unit that it comes from. */
  #list() {
    const terms = this.answer.terms.flatMap(listTerms);
    const box = element("section", "unit-section");
    if (!terms.length) return this.answer.inputs.length ? this.#inputs() : null;
    const real = terms.filter((term) => !term.padding);
    const { kind, formula } = this.answer;
    const [sign, first] = EXTREMES[kind] ?? [];
    const size = ({ product, value }) => (sign ? sign * value : Math.abs(product ?? value));
    const sorted = real.toSorted((a, b) => size(b) - size(a));
    const padded = terms.length - real.length;
    const ones = terms.every(({ weight, weightSource }) => weight === 1 && !weightSource);
    const plain = sign || ones || formula === "x / c"; // factors that say nothing
    const order = first ?? `by the size of their ${plain ? "values" : "products"}`;
    const many = `Its ${terms.length.toLocaleString("en")} inputs, ${order}`;
    const heading = terms.length === 1 ? "Its one input" : many;
    box.append(element("h3", "", heading + (padded ? `; ${padded} of them are padding` : "")));
    const list = element("ol", "unit-terms");
    for (const term of sorted.slice(0, this.terms)) {
      const row = element("li", "");
      const { source, index } = term;
      row.append(button("link", `${source} [${index.join(", ")}]`, () => this.#walk(source, index)));
      row.append(element("span", "unit-number", exact(term.value)));
      if (term.weight !== null && !plain) {
        const factor = element("span", "unit-number", `× ${exact(term.weight)}`);
        if (term.weightSource) {
          const { source, index } = term.weightSource;
          factor.replaceChildren("× ", button("link", exact(term.weight), () => this.page.open(source, index)));
        }
        row.append(factor, element("span", "unit-number", `= ${exact(term.product)}`));
      }
      list.append(row);
    }
    box.append(list);
    const rest = sorted.length - this.terms;
    if (rest > 0) {
      const shown = Math.min(rest, 200);
      const which = shown === rest ? `the other ${rest}` : `${shown} more of ${rest.toLocaleString("en")}`;
      box.append(button("link", `Show ${which}`, () => {
        this.terms += shown;
        this.#paint();
      }));
    }
    return box;
  }

  #inputs() {
    const box = element("section", "unit-section");
    box.append(element("h3", "", "It reads"));
    for (const { source, shape } of this.answer.inputs) {
      const open = () => this.page.open(source, shape.map(() => 0));
      box.append(button("link", `${source} (${shape.join(" × ")})`, open), " ");
    }
    return box;
  }

  #following() {
    const { following, index } = this.answer;
    if (!following.length) return null;
    const line = element("p", "unit-following", "Then ");
    following.forEach(({ layer, value }, at) => {
      if (at) line.append(", and ");
      line.append(button("link", layer, () => this.page.open(layer, index)), ` makes it ${exact(value)}`);
    });
    line.append(".");
    return line;
  }
}

function largest(nested) {
  return flat(nested).reduce((most, number) => Math.max(most, Math.abs(number)), 1e-30);
}

/** A number for a small cell. */
function brief(value) {
  if (value === null) return "–";
  const size = Math.abs(value);
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2).replace("-", "−");
}

/** A number with six significant digits. */
function exact(value, digits = 6) {
  if (value === null || value === undefined) return "not a finite number";
  return String(Number(value.toPrecision(digits))).replaceAll("-", "−");
}

/** Two numbers with the digits that show that they agree, or that they do not. */
function alike(a, b, near) {
  for (let digits = 6; digits > 0 && digits < 17; digits += near ? -1 : 1) {
    const pair = [a, b].map((value) => exact(value, digits));
    if ((pair[0] === pair[1]) === near) return pair;
  }
  return ["0", "0"]; // beside the terms, which cancel
}

/** The size of everything that is added up. */
function reach({ terms, bias, value }) {
  const numbers = terms.flatMap(({ products, values }) => flat(products ?? values));
  return numbers.reduce((sum, number) => sum + Math.abs(number), Math.abs(bias) + Math.abs(value));
}

/** The last step to the value, up to the sign of equality. */
function working({ bias, value, formula, details: { c }, layer }) {
  if (formula === "x / c") return `The terms give ${exact(value * c)} / ${exact(c)} = `;
  if (!bias) return "The terms give ";
  const parts = layer.startsWith("input:") ? "pixel and the mean" : "terms and the bias";
  return `The ${parts} give ${exact(value - bias)} ${bias < 0 ? "−" : "+"} ${exact(Math.abs(bias))} = `;
}
