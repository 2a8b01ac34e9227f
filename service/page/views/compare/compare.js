// Compare: two images in one model, or one image in two, layer by layer, and where the difference begins.

import { bar, button, element, select, short } from "../../core/dom.js";
import { follow, go, where } from "../../core/router.js";
import { Newest } from "../../core/server.js";
import { drawPredictions } from "../input/predictions.js";
import { Maps, readMaps } from "./maps.js";

const MOST_VALUES = 3_000_000; // of the layers in one request, so that the server takes two images
const KEEP = "Keep an image as A, and draw, choose or drop a second one; or choose another model.";
const KEPT = "A is kept. Now draw, choose or drop the second image.";
const MEASURES = "The difference is the norm of B − A, divided by that of A. 0: equal; 1: as large as A itself. " +
  "Cosine 1: they differ only in scale; 0: they have nothing in common.";
const nameOf = ({ name, version }) => `${name}:${version}`;
const pathOf = ({ model }) => `v1/models/${encodeURIComponent(nameOf(model))}`;

export class CompareView {
  #asked = {};
  #kept = null; // the first image

  constructor(root, page) {
    this.jobs = new Newest((question, signal) => this.#run(question, signal));
    const { store } = page;
    const update = () => this.#update(store);
    const again = () => {
      this.#asked = {};
      update();
    };
    this.ask = (path, options) => page.ask(path, options, again);
    this.other = select("Compare with", [], (value) => go({ with: value || null }));
    this.keep = button("", "Keep this image as A", () => {
      this.#kept = store.get("image");
      update();
    });
    [this.controls, this.status, this.result, this.pair, this.unmatched] =
      ["controls", "", "", "compare-pair", "dim"].map((name) => element("div", name));
    this.controls.append(this.other, this.keep, button("", "Choose an image", () => page.find("choose").click()));
    this.status.setAttribute("role", "status");
    this.maps = new Maps(page);
    this.table = element("table", "table compare-layers");
    this.result.append(this.pair, this.maps.element, this.table, this.unmatched);
    root.append(this.controls, this.status, this.result);
    this.result.hidden = true;
    store.watch(["image", "seen", "refused", "tab", "model", "graph"], update);
    follow(update);
    update();
    new ResizeObserver(() => requestAnimationFrame(() => this.maps.paint())).observe(root);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.maps.paint());
  }

  #update(store) {
    const [model, image, graph] = ["model", "image", "graph"].map((name) => store.get(name));
    if (store.get("tab") !== "compare" || !model) return this.#stop();
    this.controls.hidden = !model.inspectable;
    if (!model.inspectable) return this.#tell("This model was exported without model.onnx: it cannot be compared.");
    const { with: wanted, at } = where();
    const others = store.get("models").filter((one) => one !== model && one.inspectable);
    const options = others.map((one) => new Option(`${one.name} · version ${one.version}`, nameOf(one)));
    const list = this.other.lastChild;
    list.replaceChildren(new Option("another image", ""), ...options);
    const other = others.find((one) => nameOf(one) === wanted);
    list.value = other ? wanted : "";
    this.keep.hidden = Boolean(other);
    const ready = image && store.get("seenOf") === image;
    this.keep.disabled = !ready;
    if (!image) return this.#tell("Draw, or choose an image to compare.");
    if (store.get("refused") === image) return this.#tell("The server refused this image, or the model.");
    if (!other && !this.#kept) return this.#tell(KEEP);
    if (!other && this.#kept === image) return this.#tell(KEPT, image);
    if (!graph || !ready) return this.#stop();
    const first = other ? image : this.#kept;
    const sides = [{ model, image: first }, { model: other ?? model, image }];
    const pair = { model, first, second: image, other };
    const same = Object.keys(pair).every((name) => pair[name] === this.#asked[name]);
    if (same && this.#asked.at === at) return;
    const { found } = same ? this.#asked : {};
    this.#asked = { ...pair, at, sides, nodes: graph.nodes, found };
    this.jobs.ask(this.#asked, { abort: true });
  }

  #stop() {
    this.jobs.drop();
    if (!this.#asked.done) this.#asked = {};
    this.status.textContent = "";
  }

  #tell(text, image) {
    this.#stop();
    this.#asked = {};
    this.status.textContent = text;
    if (image) this.status.prepend(picture(image, "A"));
    this.result.hidden = true;
  }

  async #run(question, signal) {
    if (!question.found) {
      this.#tellOf(question, "Comparing …");
      const found = await this.#compare(question, signal);
      if (!found) return this.#tellOf(question, "");
      this.#show(found, question);
      question.found = found;
    }
    const { layers, begins } = question.found;
    const wanted = [question.at, begins, layers[0]?.layer];
    const layer = wanted.map((name) => layers.find((one) => one.layer === name)).find(Boolean);
    for (const row of this.table.rows) row.setAttribute("aria-current", row.dataset.layer === layer?.layer);
    const paths = question.sides.map(pathOf);
    this.maps.show(layer && (await readMaps(this.ask, paths, question.sides, layer, signal)));
    question.done = true;
  }

  #tellOf(question, text) {
    if (question === this.#asked) this.status.textContent = text;
  }

  /** Asks for all layers, in several requests if they are large. */
  async #compare({ sides: [first, second], nodes, other }, signal) {
    const parts = [[]];
    let total = 0;
    for (const { name, shape } of nodes) {
      const length = shape.reduce((a, b) => a * b);
      total += length;
      if (total > MOST_VALUES) [total] = [length, parts.push([])];
      parts.at(-1).push(name);
    }
    const body = other ? first.image : pack([first.image, second.image]);
    const answers = [];
    for (const layers of parts.filter((names) => names.length)) {
      const query = new URLSearchParams({ layers, ...(other && { with: nameOf(other) }) });
      const answer = await this.ask(`${pathOf(first)}/compare?${query}`, { body, signal });
      if (!answer) return null;
      answers.push(answer);
    }
    const [{ models }] = answers;
    models[0].unmatched = answers.flatMap((answer) => answer.models[0].unmatched);
    const begins = answers.map((answer) => answer.begins).find(Boolean);
    return { models, begins, layers: answers.flatMap(({ layers }) => layers) };
  }

  #show({ layers, begins, models }, { sides, other }) {
    const { layer, maximum } = layers.reduce((a, b) => (b.maximum > a.maximum ? b : a), { maximum: 0 });
    this.status.textContent = begins ? `The difference begins in ${begins}. ${course(layers)}`
      : !layers.length ? "No layer of A has its like in B."
      : layer ? `Equal up to rounding: at most ${short(maximum)} apart, in ${layer}.`
      : `Exactly equal: all ${layers.length} layers have the same values.`;
    this.result.hidden = false;
    this.pair.replaceChildren();
    this.unmatched.replaceChildren();
    for (const [index, { model, version, predictions, unmatched }] of models.entries()) {
      const [side, answer, { image }] = [element("section", ""), element("div", "answer"), sides[index]];
      drawPredictions(answer, predictions.slice(0, 3));
      const title = other ? `${model} · version ${version}` : image.name || "drawing";
      side.append(element("h2", "", `${"AB"[index]}: ${title}`), picture(image, "AB"[index]), answer);
      this.pair.append(side);
      const names = unmatched.join(", ");
      if (names) this.unmatched.append(element("p", "", `Only in ${"AB"[index]}, or of another shape: ${names}.`));
    }
    this.#list(layers);
  }

  #list(layers) {
    this.table.replaceChildren();
    this.table.hidden = !layers.length;
    const head = ["Layer", "Difference", "", "Cosine"].map((text) => element(text ? "th" : "td", "", text));
    this.table.createCaption().textContent = MEASURES;
    this.table.createTHead().insertRow().append(...head);
    const body = this.table.createTBody();
    const most = Math.max(...layers.map(({ relative }) => relative)) || 1;
    for (const { layer, relative, cosine } of layers) {
      const row = body.insertRow();
      row.dataset.layer = layer;
      const name = element("th", "");
      name.append(button("link", layer, () => go({ at: layer })));
      row.append(name, element("td", "", short(relative)));
      row.insertCell().append(bar(relative / most));
      row.append(element("td", "", short(cosine)));
    }
  }
}

function picture(image, name) {
  const made = Object.assign(element("img", ""), { src: URL.createObjectURL(image), alt: `Image ${name}` });
  made.onload = made.onerror = () => URL.revokeObjectURL(made.src);
  return made;
}

/** A sentence on where the difference is largest, and how large it is at the end. */
function course(layers) {
  const [most, last] = [layers.reduce((a, b) => (b.relative > a.relative ? b : a)), layers.at(-1)];
  const end = most === last ? "" : `, and ${short(last.relative)} in the last layer, ${last.layer}`;
  return `It is largest in ${end ? "" : "the last layer, "}${most.layer}: ${short(most.relative)}${end}.`;
}

/** Images as one multipart body; of FormData the boundary is not known. */
function pack(images) {
  const boundary = `convscope${Math.random()}`;
  const parts = images.flatMap((image, index) => [
    `--${boundary}\r\nContent-Disposition: form-data; name="${index}"; filename="${index}"\r\n\r\n`, image, "\r\n",
  ]);
  return new Blob([...parts, `--${boundary}--`], { type: `multipart/form-data; boundary=${boundary}` });
}
