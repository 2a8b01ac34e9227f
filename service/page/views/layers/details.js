// The details of a layer: statistics of its value, dead channels, its kernels, and how unusual it is.

import { prepare } from "../../core/canvas.js";
import { button, element, pairs, percent, select, short } from "../../core/dom.js";
import { Refusal, ask, askBlob } from "../../core/server.js";

const ORDERS = {
  index: "as they are",
  mean: "by mean",
  max: "by largest value",
  l2: "by L2 norm",
  contribution: "by contribution",
};
const DEAD = 12; // dead channels that are named

export class Details {
  #image = null; // that the answer belongs to
  #loading = false;

  /** @param {import("./card.js").Card} card @param {object} page see app.js */
  constructor(card, page) {
    this.card = card;
    this.page = page;
    this.element = element("details", "layer-details");
    this.body = element("div", "layer-details-body");
    this.element.append(element("summary", "", "Statistics, dead channels, kernels"), this.body);
    this.element.addEventListener("toggle", () => this.element.open && this.load());
  }

  /** Takes the card's new layer, or null: marks what is unusual, and asks again if the details are open. */
  update(layer) {
    this.card.element.classList.toggle("unusual", Boolean(layer?.normality?.unusual));
    if (layer && this.element.open) this.load();
    if (!layer) {
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
    if (this.#image === image || this.#loading) return;
    this.#loading = true;
    const name = encodeURIComponent(this.card.node.name);
    const path = `${this.page.path()}/feature-maps?layers=${name}&values=uint8&channels=0&statistics=true`;
    try {
      const answer = await ask(path, { body: image });
      this.#image = image;
      this.#paint(answer.layers[0].statistics, answer.references && answer.layers[0].normality, answer.references);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.body.replaceChildren(element("p", "dim", error.message));
    }
    this.#loading = false;
  }

  #paint(statistics, normality, references) {
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
    if (this.card.kind === "tiles" && this.card.depth > 1) parts.push(this.#orders(), this.#dead(statistics.dead));
    if (normality) parts.push(element("p", "layer-normality", describeNormality(normality, references)));
    if (this.card.node.parameters) parts.push(this.#kernels());
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
    canvas.setAttribute("aria-label", `Counts from ${short(minimum)} to ${short(maximum)}: ${histogram.join(", ")}`);
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
    const rows = this.statistics.channels; // mean, standard deviation, minimum, maximum, share of zeros
    const scores = { mean: (row) => row[0], max: (row) => row[3], l2: (row) => row[0] ** 2 + row[1] ** 2 };
    let channels = rows.map((_, channel) => channel);
    if (order in scores) channels.sort((a, b) => scores[order](rows[b]) - scores[order](rows[a]));
    if (order === "contribution") channels = (await this.#contributions()) ?? channels;
    this.card.sort(order === "index" ? null : channels);
  }

  async #contributions() {
    const name = encodeURIComponent(this.card.node.name);
    const query = `layers=${name}&values=uint8&rank=contribution&top=${this.card.depth}`;
    const body = this.page.store.get("image");
    const answer = await this.page.ask(`${this.page.path()}/feature-maps?${query}`, { body });
    return answer?.layers[0].channels;
  }

  #dead(dead) {
    const line = element("p", "layer-dead");
    if (!dead.length) return Object.assign(line, { textContent: "No channel is 0 everywhere on this image." });
    line.append(`${dead.length} of ${this.card.depth} channels are dead (0 everywhere on this image): `);
    dead.slice(0, DEAD).forEach((channel, at) => {
      const { card } = this;
      const open = () => this.page.open(card.node.name, card.indexOf(card.central(channel)));
      line.append(at ? ", " : "", button("link", String(channel), open));
    });
    if (dead.length > DEAD) line.append(" and others");
    return line;
  }

  #kernels() {
    const box = element("p", "layer-kernels");
    const path = `${this.page.path()}/layers/${encodeURIComponent(this.card.node.name)}/kernels?format=png`;
    const show = button("", "Show its kernels", async () => {
      try {
        const picture = element("img", "layer-kernel-picture");
        picture.src = URL.createObjectURL(await askBlob(path));
        picture.onload = () => URL.revokeObjectURL(picture.src);
        picture.alt = `Kernels of ${this.card.node.name}: a row for each output, a tile for each input`;
        const caption = "A row for each output channel, a tile for each input; red is positive, blue negative.";
        box.replaceChildren(picture, element("span", "dim", caption));
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        box.replaceChildren(element("span", "dim", error.message));
      }
    });
    box.append(show);
    return box;
  }
}

/** A sentence on how far a layer's value lies outside of what is normal. */
export function describeNormality({ distance, limit, nearer, unusual }, references) {
  const beside = describeData(references);
  const how = unusual ? "Unusual" : "Normal";
  const share = percent(nearer);
  return `${how} beside ${beside}: distance ${short(distance)}, 99 % are within ${short(limit)}, ${share} are nearer.`;
}

/** A sentence on how many of the layers are unusual; empty without reference images. */
export function describeAll({ layers, references }) {
  const known = references ? layers.filter(({ normality }) => normality) : [];
  if (!known.length) return "";
  const unusual = known.filter(({ normality }) => normality.unusual).length;
  const beside = describeData(references);
  return unusual
    ? `Unusual beside ${beside} in ${unusual} of ${known.length} layers.`
    : `Normal beside ${beside} in every layer.`;
}

function describeData({ images, split, name }) {
  return `the ${images.toLocaleString("en")} ${split} images of ${name}`;
}
