// The details of a layer: statistics of its value, silent channels, its kernels, and how unusual it is.

import { prepare } from "../../core/canvas.js";
import { button, element, pairs, percent, select, short } from "../../core/dom.js";
import { moves } from "../../core/geometry.js";
import { Newest, Refusal, ask, askBlob } from "../../core/server.js";

const ORDERS = {
  index: "as they are",
  mean: "by mean",
  max: "by largest value",
  l2: "by L2 norm",
  contribution: "by contribution",
};
const MOST = 12; // silent channels that are named
const [SIDE, LINE] = [480, 16]; // CSS pixels: kernels are enlarged up to this height; the number of a row

export class Details {
  #image = null; // that the answer belongs to
  #asking = new Newest((image, signal) => this.#ask(image, signal));

  /** @param {import("./card.js").Card} card @param {object} page see app.js */
  constructor(card, page) {
    this.card = card;
    this.page = page;
    this.element = element("details", "layer-details");
    this.body = element("div", "layer-details-body");
    const { kernel, op } = card.node;
    const weighted = (kernel && !/pool/i.test(op)) || op === "Linear";
    if (weighted) this.kernels = this.#kernels();
    const title = ["Statistics", !moves(card.node) && "silent channels", weighted && "kernels"];
    this.element.append(element("summary", "", title.filter(Boolean).join(", ")), this.body);
    this.element.addEventListener("toggle", () => this.element.open && this.load());
  }

  /** Takes the card's new layer, or null: marks what is unusual, and asks again if the details are open. */
  update(layer) {
    this.card.element.classList.toggle("unusual", Boolean(layer?.normality?.unusual));
    if (layer && this.element.open) this.load();
    if (!layer) {
      this.#asking.drop();
      this.#image = null;
      this.body.replaceChildren();
    }
  }

  /** Asks for what is shown, if it is shown and belongs to another image. */
  async load() {
    const image = this.page.store.get("image");
    const { inspectable } = this.page.store.get("model");
    const lack = !inspectable ? "This model was exported without model.onnx." : image ? "" : "Choose an image first.";
    if (lack) return this.body.replaceChildren(element("p", "dim", lack));
    if (this.#image === image) return;
    this.#image = image;
    this.#asking.ask(image, { abort: true });
  }

  async #ask(image, signal) {
    const name = encodeURIComponent(this.card.node.name);
    const path = `${this.page.path()}/feature-maps?layers=${name}&values=uint8&channels=0&statistics=true`;
    try {
      const answer = await ask(path, { body: image, signal });
      this.#paint(answer.layers[0], answer.references);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (this.#image === image) this.#image = null; // asked for again when the details are opened again
      this.body.replaceChildren(element("p", "dim", error.message));
    }
  }

  #paint({ statistics, normality, channel_axis: axis }, references) {
    this.statistics = statistics;
    const facts = element("dl", "layer-facts");
    facts.append(
      ...pairs({
        mean: short(statistics.mean),
        "standard deviation": short(statistics.std),
        smallest: short(statistics.minimum),
        largest: short(statistics.maximum),
        zeros: percent(statistics.zeros),
      }),
    );
    const parts = [facts, this.#histogram(statistics)];
    if (this.card.kind === "tiles" && this.card.depth > 1) parts.push(this.#orders());
    if (!moves(this.card.node)) parts.push(this.#silent(statistics, axis));
    if (references && normality) parts.push(element("p", "layer-normality", describeNormality(normality, references)));
    if (this.kernels) parts.push(this.kernels);
    this.body.replaceChildren(...parts);
    if (this.order && this.order !== "index") this.#sort(this.order); // the order of the image before
  }

  #histogram({ histogram, minimum, maximum }) {
    const figure = element("figure", "layer-histogram");
    const canvas = element("canvas", "");
    const [width, height] = [260, 56];
    const context = prepare(canvas, width, height);
    const most = Math.max(1, ...histogram);
    context.fillStyle = this.page.look().positive;
    histogram.forEach((count, bin) => {
      const [step, tall] = [width / histogram.length, (height * Math.sqrt(count)) / Math.sqrt(most)];
      context.fillRect(bin * step, height - tall, step - 1, tall);
    });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Counts: ${histogram.join(", ")}`);
    const caption = `${short(minimum)} to ${short(maximum)}; heights are square roots of counts`;
    figure.append(canvas, element("figcaption", "dim", caption));
    return figure;
  }

  #orders() {
    const options = Object.entries(ORDERS);
    const made = select("Sort the channels", options, (order) => this.#sort(order));
    made.querySelector("select").value = this.order ?? "index";
    return made;
  }

  async #sort(order) {
    this.order = order;
    const image = this.#image;
    const rows = this.statistics.channels; // mean, standard deviation, minimum, maximum, share of zeros
    const scores = { mean: (row) => row[0], max: (row) => row[3], l2: (row) => row[0] ** 2 + row[1] ** 2 };
    let channels = rows.map((_, channel) => channel);
    if (order in scores) channels.sort((a, b) => scores[order](rows[b]) - scores[order](rows[a]));
    if (order === "contribution") channels = (await this.#contributions()) ?? channels;
    if (this.order !== order || this.#image !== image) return; // another choice or image meanwhile
    this.card.sort(order === "index" ? null : channels);
  }

  async #contributions() {
    const name = encodeURIComponent(this.card.node.name);
    const query = `layers=${name}&values=uint8&rank=contribution&top=${this.card.depth}`;
    const body = this.page.store.get("image");
    const answer = await this.page.ask(`${this.page.path()}/feature-maps?${query}`, { body });
    return answer?.layers[0].channels;
  }

  #silent({ dead, channels }, axis) {
    const { name, shape } = this.card.node;
    const what = shape.length === 1 ? "units are 0" : "channels are 0 everywhere";
    const line = element("p", "layer-silent", `Silent on this image: ${dead.length} of ${channels.length} ${what}`);
    dead.slice(0, MOST).forEach((channel, at) => {
      const open = () => this.page.open(name, shape.map((size, place) => (place === axis ? channel : size >> 1)));
      line.append(at ? ", " : ": ", button("link", String(channel), open));
    });
    if (dead.length > MOST) line.append(" and others");
    return line;
  }

  /** A button that shows and hides the weights. */
  #kernels() {
    const box = element("div", "layer-kernels");
    const figure = element("div", "");
    figure.hidden = true;
    const show = button("", "Show its kernels", () => {
      figure.hidden = !figure.hidden;
      show.textContent = `${figure.hidden ? "Show" : "Hide"} its kernels`;
      if (!figure.hidden && !figure.querySelector("img")) this.#draw(figure);
    });
    box.append(show, figure);
    return box;
  }

  async #draw(figure) {
    const { name, kernel, shape } = this.card.node;
    const picture = element("img", "");
    try {
      const path = `${this.page.path()}/layers/${encodeURIComponent(name)}/kernels?format=png`;
      picture.src = URL.createObjectURL(await askBlob(path));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return figure.replaceChildren(element("span", "dim", error.message));
    }
    picture.alt = "A row for each output channel, a tile for each input; red is positive, blue negative.";
    const [rows, scroller] = [element("div", "layer-kernel-rows dim"), element("div", "layer-kernel-scroller")];
    scroller.tabIndex = 0;
    scroller.append(rows, picture);
    figure.replaceChildren(element("p", "dim", picture.alt), scroller);
    await picture.decode();
    URL.revokeObjectURL(picture.src);
    const [outputs, high] = kernel ? [shape[0], kernel[0] + 1] : [shape.at(-1), 1]; // weights, with the line below
    const down = outputs * high - (kernel ? 1 : 0);
    const side = Math.max(4, Math.min(16, Math.floor(SIDE / down))); // CSS pixels of a weight
    picture.height = down * side;
    const step = Math.ceil(LINE / (high * side));
    rows.style.gridAutoRows = `${step * high * side}px`;
    for (let output = 0; output < outputs; output += step) rows.append(element("span", "", output));
  }
}

/** A sentence on how far a layer's value lies outside of what is normal. */
function describeNormality({ distance, limit, nearer, unusual }, references) {
  const beside = describeData(references);
  const how = unusual ? "Unusual" : "Normal";
  const share = percent(nearer);
  return `${how} beside ${beside}: distance ${short(distance)}, 99 % are within ${short(limit)}, ${share} are nearer.`;
}

/** A sentence on how many of the layers are unusual; empty without reference images. */
/** A sentence on all layers that have come, of `count`. */
export function describeAll(layers, references, count) {
  const known = references ? layers.filter(({ normality }) => normality) : [];
  if (!known.length) return "";
  const unusual = known.filter(({ normality }) => normality.unusual).length;
  const beside = describeData(references);
  const all = layers.length === count ? "every layer" : `the ${known.length} layers shown so far`;
  return unusual
    ? `Unusual beside ${beside} in ${unusual} of ${known.length} layers.`
    : `Normal beside ${beside} in ${all}.`;
}

function describeData({ images, split, name }) {
  return `the ${images.toLocaleString("en")} ${split} images of ${name}`;
}
