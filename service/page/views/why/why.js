// Why: which places of the image speak for a class and for the runner-up, and how far to trust the answer and the map.

import { bar, button, element, percent, select } from "../../core/dom.js";
import { follow, go, where } from "../../core/router.js";
import { Newest, Refusal } from "../../core/server.js";
import { judge } from "./answer.js";
import { Curves } from "./curves.js";
import { Heat } from "./heat.js";
import { METHODS, OF_PIXELS, table } from "./methods.js";
import { askSlowly } from "./stream.js";

const PARTS = { controls: "div", does: "p", status: "p", running: "p", result: "div", maps: "div", side: "div",
  bars: "ol", answer: "section", about: "p", all: "div" };

export class WhyView {
  #asked = {}; // the question that is being answered, or was
  #done = false;

  constructor(root, page) {
    this.page = page;
    this.jobs = new Newest((job, signal) => this.#run(job, signal));
    this.#build(root);
    const { store } = page;
    const update = () => this.#update(store);
    store.watch(["image", "seen", "refused", "tab", "model", "labels"], update);
    follow(update);
    update();
    new ResizeObserver(() => requestAnimationFrame(() => this.#paint())).observe(root);
    matchMedia("(prefers-color-scheme: dark)").onchange = () => this.#paint();
  }

  #build(root) {
    for (const name in PARTS) this[name] = element(PARTS[name], `why-${name}`);
    const paint = () => this.#paint();
    this.choices = { Method: "method", Class: "class", Layer: "at" };
    for (const [label, name] of Object.entries(this.choices)) {
      const labelled = select(label, [], (value) => go({ [name]: value || null }));
      this.choices[label] = labelled.lastChild;
      this.controls.append(labelled);
    }
    fill(this.choices.Method, "automatic", Object.keys(METHODS).map((name) => [METHODS[name][0], name]));
    this.opacity = Object.assign(document.createElement("input"), { type: "range", value: 85, oninput: paint });
    const opacity = element("label", "", "Opacity ");
    opacity.append(this.opacity);
    this.scale = select("Show", ["for and against", "only for"], paint);
    this.controls.append(this.scale, opacity);
    this.controls.classList.add("controls");
    this.status.setAttribute("role", "status");
    this.again = button("", "Try again", () => this.#ask());
    [this.heat, this.rival] = [0, 1].map(() => new Heat(() => this.#settings()));
    this.curves = new Curves((part) => this.heat.cover(Math.round(part * this.heat.flat.length)));
    this.side.append(element("h2", "", "Explain another class"), this.bars, this.answer, this.curves.element);
    this.maps.append(this.heat.element, this.rival.element, this.side);
    this.result.append(this.maps, this.about, this.all);
    root.append(this.controls, this.does, this.status, this.again, this.running, this.result);
    this.result.hidden = this.again.hidden = true;
  }

  #settings() {
    const [red, green = red, blue = red] = this.page.store.get("model").preprocess.mean.map((share) => 255 * share);
    const signed = this.scale.lastChild.selectedIndex === 0;
    return { opacity: this.opacity.value / 100, signed, mean: [red, green, blue], look: this.page.look() };
  }

  #update(store) {
    const [model, image, labels, seen] = ["model", "image", "labels", "seen"].map((name) => store.get(name));
    if (store.get("tab") !== "why" || !model) return this.#stop();
    if (!model.inspectable) return this.#empty("This model was exported without model.onnx: nothing can be explained.");
    if (!image) return this.#empty("Draw, or choose an image: what speaks for its class appears here.");
    if (store.get("refused") === image) return this.#empty("The server refused this image, or the model.");
    this.controls.hidden = false;
    const waits = !seen || this.page.store.get("seenOf") !== image || !labels.length;
    if (waits) return this.#stop("Waiting for the network's input …");
    const question = { model, image, seen, ...this.#chosen(labels) };
    if (Object.keys(question).every((name) => question[name] === this.#asked[name])) return;
    this.#asked = question;
    this.#ask();
  }

  /** What the address asks for, without what this model lacks. */
  #chosen(labels) {
    const { Method, Class, Layer } = this.choices;
    if (this.labels !== labels) {
      this.labels = labels;
      const { nodes } = this.page.store.get("graph");
      const layers = nodes.filter(({ shape: [, ...lengths] }) => lengths.some((length) => length > 1));
      fill(Layer, "the last feature map", layers.map(({ name }) => [name]));
      fill(Class, "the predicted one", labels.map((label, index) => [label, this.#nameOf(index)]));
    }
    const { method, class: name, at } = where();
    for (const [list, value] of [[Method, method], [Class, name], [Layer, at]]) {
      list.value = value;
      if (list.selectedIndex < 0) list.value = "";
    }
    Layer.disabled = OF_PIXELS.includes(Method.value);
    return { method: Method.value, class: Class.value, layer: Layer.disabled ? "" : Layer.value };
  }

  /** A class as the server takes it: its name, or its number if an earlier class has the same name. */
  #nameOf(index) {
    return this.labels.indexOf(this.labels[index]) === index ? this.labels[index] : String(index);
  }

  #ask() {
    this.#done = false;
    this.#tell("");
    const compare = () => this.jobs.ask({ question: this.#asked, all: true });
    this.all.replaceChildren(button("", "Compare all methods", compare));
    this.jobs.ask({ question: this.#asked }, { abort: true });
  }

  #stop(text = "") {
    this.jobs.drop();
    if (!this.#done) this.#asked = {};
    this.result.classList.toggle("stale", this.#asked.image !== this.page.store.get("image"));
    this.status.after(this.running);
    this.running.textContent = text;
    this.#tell("");
  }

  #empty(text) {
    this.#stop();
    this.#asked = {};
    this.controls.hidden = this.result.hidden = true;
    this.does.textContent = "";
    this.#tell(text);
  }

  #tell(text, again = false) {
    this.status.textContent = text;
    this.again.hidden = !again;
  }

  async #run({ question, all }, signal) {
    const { image, seen, model, ...choices } = question;
    const request = (changes, place, text) => {
      const query = new URLSearchParams(Object.entries({ ...choices, ...changes }).filter(([, value]) => value));
      place.after(this.running);
      this.running.textContent = text;
      return askSlowly(`${this.page.path()}/explain?${query}`, image, signal, ({ method, done, total }) => {
        this.running.textContent = `${METHODS[method][0]}: ${done} of ${total} runs of the network`;
      });
    };
    let shown = all;
    try {
      if (all) {
        const { methods } = await request({ method: "all" }, this.all.firstChild, "Comparing …");
        const choose = (method) => {
          go({ method });
          this.choices.Method.focus(); // the table goes
        };
        return this.all.replaceChildren(table(methods, choose));
      }
      this.result.classList.add("stale");
      const answer = await request({}, this.status, "Explaining …");
      shown = true;
      const other = this.#show(answer, seen);
      Object.assign(choices, { method: answer.method, layer: answer.layer }); // what the server chose
      const under = this.curves.element;
      if (other) {
        const rival = await request({ class: this.#nameOf(other.index) }, under, "Mapping the runner-up …");
        this.#showRival(rival, answer);
      }
      if (!answer.empty) {
        this.curves.show((await request({ evaluate: true }, under, "Testing the map …")).trust, answer.class.label);
      }
      this.#done = true;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (!shown) this.does.textContent = "";
      this.result.hidden = !shown;
      this.#tell(error.message, true);
    } finally {
      if (question === this.#asked) this.running.textContent = "";
    }
  }

  /** Shows an answer; returns the class to set beside it. */
  #show(answer, seen) {
    const { method, grid, layer, file, minimum, maximum, predictions, class: { label, index } } = answer;
    this.does.textContent = METHODS[method].join(" ") + ".";
    this.result.hidden = false;
    this.result.classList.remove("stale");
    const other = method === "eigencam" ? null : predictions.find((one) => one.index !== index);
    this.rival.element.hidden = !other;
    this.rival.element.classList.add("stale");
    this.heat.show(answer, seen);
    this.heat.note.textContent = answer.empty
      ? `No place speaks for ${label}: the map is ${minimum === maximum ? "the same everywhere" : "nowhere positive"}.`
      : `Strongest at the ${this.heat.place}.`;
    this.curves.show(null);
    const focused = [...this.bars.children].findIndex((row) => row.contains(document.activeElement));
    this.bars.replaceChildren(...predictions.slice(0, 5).map((one) => this.#bar(one, one.index === index)));
    this.bars.children[focused]?.firstChild.focus();
    const { metrics } = this.page.store.get("model");
    this.answer.replaceChildren(element("h2", "", "Can the answer be trusted?"), ...judge(answer, metrics?.test));
    this.about.textContent = `Computed by ${file}` + (grid ? `, from the ${grid.join("×")} places of ${layer}.` : ".");
    return other;
  }

  #showRival(answer, first) {
    const { rival, heat } = this;
    rival.element.classList.remove("stale");
    rival.show(answer, heat.seen);
    const theirs = rival.shares;
    const shared = heat.shares.reduce((sum, share, index) => sum + Math.min(share, theirs[index]), 0);
    rival.note.textContent = answer.empty
      ? `No place speaks for ${answer.class.label}.`
      : `Strongest at the ${rival.place}` +
        (first.empty ? "." : `; ${percent(shared)} of it lies where ${first.class.label} has its own.`);
  }

  #bar({ label, index, probability }, pressed) {
    const row = element("li", "");
    const made = button("", "", () => go({ class: this.#nameOf(index) }));
    made.setAttribute("aria-pressed", pressed);
    made.append(element("span", "", label), bar(probability), element("span", "value", percent(probability)));
    row.append(made);
    return row;
  }

  #paint() {
    if (this.result.hidden) return;
    this.heat.paint();
    this.rival.paint();
  }
}

/** Fills a select: a default with an empty value, then [text, value]. */
function fill(list, first, options) {
  list.replaceChildren(new Option(first, ""), ...options.map((option) => new Option(...option)));
}
