// The lab: convolution and pooling of any numbers, worked out in the page.

import { button, element, select } from "../../core/dom.js";
import { follow, go, where } from "../../core/router.js";
import { Newest } from "../../core/server.js";
import { Bench } from "./bench.js";
import { facts } from "./facts.js";
import { Learning } from "./learn.js";
import { isPool, range, slide } from "./maths.js";
import { plot } from "./plot.js";
import { CONTROLS, PRESETS, format, makeInput, makeKernel, parse, readAddress, writeAddress } from "./presets.js";

const PICTURE = 28; // rows and columns of the current image, at most
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class LabView {
  #timer = 0;
  #controls = {};
  #work = new Newest(() => this.#prepare());

  /** @param {HTMLElement} root @param {object} page see app.js */
  constructor(root, page) {
    Object.assign(this, { root, page, own: {}, place: [0, 0, 0], setting: readAddress(where().lab) });
    this.#build();
    follow(({ lab }) => {
      const setting = readAddress(lab);
      if (writeAddress(setting) === writeAddress(this.setting)) return;
      Object.assign(this, { setting, own: {}, place: [0, 0, 0] });
      this.#show();
    });
    page.store.watch(["tab"], () => this.#show());
    page.store.watch(["image", "seen"], () => this.setting.input.startsWith("image") && this.#show());
    page.store.watch(["graph"], () => this.setting.kernel === "of the model" && this.#show());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#show());
    new ResizeObserver(() => this.width !== root.clientWidth && this.#show()).observe(root);
  }

  #build() {
    const { look } = this.page;
    const [example, ...rows] = CONTROLS.map((row) => {
      const box = element("div", "controls lab-row");
      box.append(...Object.entries(row).map((entry) => this.#control(...entry)));
      return box;
    });
    this.note = element("p", "lab-note");
    this.bench = new Bench({ look, pick: (place) => this.#pick(place), edit: (...change) => this.#edit(...change) });
    this.learning = new Learning(look, still);
    this.play = button("", "Play", () => this.#run(!this.#timer));
    const player = element("div", "lab-player");
    player.append(button("", "Back", () => this.#step(-1)), this.play, button("", "Step", () => this.#step(1)));
    this.bench.arithmetic.prepend(player);
    this.plot = element("canvas", "");
    this.plot.role = "img";
    this.plot.ariaLabel = "The input as a thin line, the output as a thick one, the kernel as bars";
    this.facts = element("div", "lab-facts");
    const { panes, arithmetic } = this.bench;
    this.root.append(example, this.note, ...rows, panes, this.plot, arithmetic, this.facts, this.#texts());
    this.#run(false);
  }

  #control(key, [text, options, most]) {
    const label = select(text, most ? [] : options, (value) => this.#choose(key, value));
    if (most) {
      const input = element("input", "lab-number");
      const oninput = () => valid(input) && this.#choose(key, input.value);
      Object.assign(input, { type: "number", min: options, max: most, oninput, onchange: () => this.#settle(key) });
      label.lastChild.replaceWith(input);
    }
    this.#controls[key] = label.lastChild;
    return label;
  }

  #texts() {
    const details = element("details", "");
    const row = element("div", "lab-facts");
    this.areas = ["input", "kernel", "output"].map((name) => {
      const [label, area] = [element("label", "", name), element("textarea", "")];
      Object.assign(area, { name, readOnly: name === "output", onchange: () => this.#paste(area) });
      label.append(area);
      row.append(label);
      return area;
    });
    this.complaint = element("p", "lab-complaint");
    this.complaint.role = "alert";
    details.append(element("summary", "", "Numbers as text: copy, type or paste"), row, this.complaint);
    return details;
  }

  #show() {
    this.visible = this.page.store.get("tab") === "lab";
    if (this.visible) this.#work.ask();
    else this.#run(false);
  }

  #choose(key, value, limit = "") {
    this.limit = limit;
    if (key === "preset") return go({ lab: value });
    const { setting } = this;
    setting[key] = value;
    if (key === "input") setting.n = value === "noisy signal" ? 80 : Math.min(setting.n, 8);
    this.#check();
    go({ lab: writeAddress(setting) }, { replace: true });
    this.#show();
  }

  /** Replaces what is no number that the control allows, once it has been typed. */
  #settle(key) {
    const input = this.#controls[key];
    const { value, min, max } = input;
    if (valid(input)) return;
    const kept = value === "" ? this.setting[key] : within(value, input);
    input.value = kept;
    this.#choose(key, kept, `${value || "No number"} becomes ${kept}: whole numbers from ${min} to ${max} fit.`);
  }

  /** Brings the setting within what the controls allow, and the controls in line with it. */
  #check() {
    const { setting } = this;
    for (const [key, input] of Object.entries(this.#controls)) {
      if (input.min) setting[key] = within(setting[key], input);
      if (!input.min || valid(input) || input !== document.activeElement) input.value = setting[key];
      if (!input.value && input.length) setting[key] = input.value = input[0].value;
    }
    for (const key of ["input", "kernel"]) if (setting[key] === "own") this.own[key] ??= this[key] ?? [[[0]]];
  }

  #edit(which, place, value) {
    const copy = structuredClone(this[which]);
    const last = place.pop();
    place.reduce((part, at) => part[at], copy)[last] = value;
    this.#take(which, copy);
  }

  #take(which, array) {
    const { setting } = this;
    this.own[which] = array;
    setting[which] = "own";
    if (which === "kernel") setting.filters = array.length;
    if (which === "input") setting.channels = array.length;
    else if (array[0].length > 1) setting.channels = array[0].length;
    go({ lab: writeAddress(setting) }, { replace: true });
    this.#show();
  }

  #paste({ name, value }) {
    this.complaint.textContent = "";
    try {
      this.#take(name, parse(value, name === "input" ? 3 : 4));
    } catch {
      this.complaint.textContent =
        "Give rows of equally many numbers, with an empty line between channels; at most 4 channels of 1,024 numbers.";
    }
  }

  /** Gets what the setting needs from elsewhere, and renders. */
  async #prepare() {
    const { setting, page } = this;
    const { layer, filter } = this.#controls;
    this.picture = setting.input.startsWith("image") ? await this.#look() : null;
    this.served = null;
    if (setting.kernel === "of the model") {
      const nodes = page.store.get("graph")?.nodes.filter((node) => node.kernel && /conv/i.test(node.op)) ?? [];
      layer.replaceChildren(...nodes.map((node, at) => new Option(node.name, at)));
      const node = nodes[setting.layer] ?? nodes[0];
      if (node && page.store.get("model").inspectable) {
        filter.max = node.shape[0] - 1;
        this.#check();
        const path = `${page.path()}/layers/${encodeURIComponent(node.name)}/kernels?output=${setting.filter}`;
        if (this.path !== path) this.answer = await page.ask(path);
        this.path = this.answer && path;
        this.served = this.answer;
      }
    }
    if (this.visible) this.#render();
  }

  /** The current image, reduced: red, green and blue from 0 to 1. */
  async #look() {
    const { store } = this.page;
    const image = store.get("image");
    const seen = store.get("seen") ?? (image && (await createImageBitmap(image).catch(() => null)));
    if (!seen) return null;
    const scale = Math.min(1, PICTURE / Math.max(seen.width, seen.height));
    const [width, height] = [Math.ceil(seen.width * scale), Math.ceil(seen.height * scale)];
    const context = new OffscreenCanvas(width, height).getContext("2d");
    context.imageSmoothingQuality = "high";
    if (this.setting.input === "image") context.filter = "grayscale(1)";
    context.drawImage(seen, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    return range(3, (c) => range(height, (y) => range(width, (x) => data[4 * (y * width + x) + c] / 255)));
  }

  #makeInput({ input, n, channels }) {
    const { picture } = this;
    if (input === "own") return fit(this.own.input, channels, 1);
    if (!picture) return fit([makeInput(input.startsWith("image") ? "vertical edge" : input, n)], channels, 1);
    return input === "image" ? picture.slice(2) : picture;
  }

  #makeKernel({ kernel, filters, size }, depth, flat) {
    if (kernel === "of the model") {
      const filter = this.served?.weights[0] ?? [[[0]]];
      return [filter.length === depth ? filter : fit([filter[0]], depth, 0)];
    }
    const step = kernel === "own" || kernel[0] === "0" ? 1 : 0;
    const base = kernel === "own" ? this.own.kernel : [[makeKernel(kernel, size, flat)]];
    return fit(base.map((one) => fit(one, depth, step)), filters, step);
  }

  #render() {
    this.#check();
    const { setting, bench, picture, root } = this;
    const { input: source, kernel: kind, op } = setting;
    this.width = root.clientWidth;
    this.input = this.#makeInput(setting);
    this.kernel = this.#makeKernel(setting, this.input.length, this.input[0].length === 1);
    const [pooled, adaptive] = [isPool(op), op.startsWith("adaptive")];
    const served = !pooled && kind === "of the model";
    this.result = slide({ ...setting, input: this.input, kernel: this.kernel, bias: served && this.served?.bias });
    const { height, sizes, output, empty } = this.result;
    this.place = this.place.map((at, axis) => Math.max(0, Math.min(at, sizes[axis] - 1)));
    const reads = served && this.served?.weights[0].length;
    const image = source.startsWith("image");
    const shown = {
      n: /\d|row|noisy/.test(source), channels: !image, kernel: !pooled,
      size: pooled ? !adaptive : /\d|ones|box|Gauss|exp/.test(kind),
      layer: reads, filter: reads, filters: !pooled && !served,
      out: adaptive, stride: !adaptive, dilation: !adaptive, padding: !adaptive,
      mode: !adaptive && setting.padding !== "valid",
    };
    for (const [key, show] of Object.entries(shown)) this.#controls[key].parentNode.hidden = !show;
    this.#controls.size.parentNode.firstChild.data = pooled ? "Window " : "size ";
    const changed = source === "own" || kind === "own" || writeAddress(setting) !== setting.preset;
    this.note.textContent = [
      changed ? "Changed from the example." : PRESETS[setting.preset][0],
      this.limit,
      image && !picture && "Draw or choose an image, and it takes the place of this edge.",
      served && !reads && "There is no kernel: it takes a model with convolutions, exported with model.onnx.",
      reads && reads !== this.input.length && `This filter reads ${reads} channels; its first kernel is used.`,
    ].filter(Boolean).join(" ");
    this.play.hidden = still.matches;
    bench.show(this.result, this.kernel, picture);
    bench.select(this.place);
    this.plot.hidden = height > 1 || empty;
    this.#draw();
    this.learning.take(this.result, this.kernel);
    this.facts.replaceChildren(...facts(this.result, setting), ...(pooled || empty ? [] : [this.learning.element]));
    for (const area of this.areas) area.value = format(area.name === "output" ? output : this[area.name]);
  }

  #draw() {
    if (this.plot.hidden) return;
    const { output, across, applied, op } = this.result;
    const [o, , x] = this.place;
    const [signal] = this.input[0];
    const middle = (places) => (places[0] + places.at(-1)) / 2 - across.before;
    const points = output[o][0].map((value, i) => [middle(across.places[i]), value]);
    const weights = isPool(op) ? [] : applied[o][0][0];
    const scale = Math.max(...signal.map(Math.abs)) / Math.max(...weights.map(Math.abs)) / 2 || 0;
    const bars = weights.map((weight, i) => [across.places[x][i] - across.before, weight * scale]);
    const style = getComputedStyle(this.root);
    const lines = [
      { points: signal.map((value, i) => [i, value]), colour: style.getPropertyValue("--dim") },
      { points, colour: style.getPropertyValue("--accent"), dot: points[x] },
    ];
    plot(this.plot, lines, bars, { width: this.width, height: 180, ...this.page.look() });
  }

  #pick(place) {
    if (`${place}` === `${this.place}`) return;
    this.place = place;
    this.bench.select(place);
    this.#draw();
  }

  #step(by) {
    const [outs, rows, columns] = this.result.sizes;
    const total = outs * rows * columns;
    const [o, y, x] = this.place;
    const next = ((o * rows + y) * columns + x + by + total) % total;
    if (total) this.#pick([Math.floor(next / rows / columns), Math.floor(next / columns) % rows, next % columns]);
  }

  #run(on) {
    clearInterval(this.#timer);
    this.#timer = on && setInterval(() => this.#step(1), this.result.sizes[1] * this.result.sizes[2] > 50 ? 80 : 700);
    this.play.textContent = on ? "Pause" : "Play";
    this.bench.equation.ariaLive = on ? "off" : "polite";
  }
}

const valid = ({ value, validity }) => value !== "" && validity.valid;
const within = (value, { min, max }) => Math.min(max, Math.max(min, Math.round(value) || 0));

/** So many parts; those beyond the last are the last plus `step`, twice `step` and so on. */
function fit(parts, count, step) {
  const more = (part, by) => (Array.isArray(part) ? part.map((one) => more(one, by)) : part + by);
  return range(count, (at) => parts[at] ?? more(parts.at(-1), step * (at - parts.length + 1)));
}
