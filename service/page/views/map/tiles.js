// The pictures of the map: of every layer the channel with the largest L2 norm, and vectors as bars.

import { makePalette } from "../../core/canvas.js";
import { gridOf } from "../../core/geometry.js";
import { Newest, Refusal, ask } from "../../core/server.js";

const SIDE = 96; // pixels of a tile at most
const BARS = 32;

/** The strongest channels of an image, in one small answer for all layers; asked for when the layers have come. */
export class Tiles {
  #layers = new Map();
  #image = null;

  /** @param {object} page @param {() => void} changed called when there are other pictures to draw */
  constructor(page, changed) {
    this.page = page;
    this.changed = changed;
    this.job = new Newest(async (body, signal) => {
      const vectors = page.store.get("graph").nodes.filter(isVector).map(({ name }) => encodeURIComponent(name));
      try {
        for (const which of ["top=1&rank=l2", `layers=${vectors}`]) {
          const { layers } = await ask(`${page.path()}/feature-maps?values=uint8&${which}`, { body, signal });
          if (body !== this.#image) return;
          for (const layer of layers) this.#layers.set(layer.name, layer);
        }
        changed();
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        if (body === this.#image) this.drop(); // no picture rather than those of another image
      }
    });
  }

  /** Asks for the pictures of the image that is shown, once. */
  want() {
    const { store } = this.page;
    const image = store.get("maps") && store.get("image");
    if (!image) this.drop();
    else if (image !== this.#image) this.job.ask((this.#image = image));
  }

  drop() {
    this.job.drop();
    this.#image = null;
    this.#layers = new Map();
    this.changed();
  }

  /** Draws a layer, or nothing before it is known. */
  draw(canvas, node) {
    const layer = this.#layers.get(node.name);
    canvas.hidden = !layer;
    if (!layer) return;
    const { bytes, minimum, maximum } = layer;
    const [low, high] = [bytes.low[0], bytes.high[0]];
    const values = Array.from(atob(bytes.data), (letter) => low + (letter.charCodeAt(0) / 255) * (high - low));
    const look = this.page.look();
    const { input } = this.page.store.get("graph");
    const [height, width] = gridOf(node.shape, input)?.grid ?? [1, 1];
    if (height * width === 1) return drawBars(canvas, values, look);
    const colours = makePalette(look.palette, minimum, maximum, look.dark);
    const image = new ImageData(width, height);
    const places = values.slice(-height * width); // a class token comes before them
    const grey = (value) => Math.round(((value - minimum) * 255) / (maximum - minimum || 1));
    new Uint32Array(image.data.buffer).set(places.map((value) => colours[grey(value)]));
    const picture = new OffscreenCanvas(width, height);
    picture.getContext("2d").putImageData(image, 0, 0);
    fit(canvas, picture);
  }
}

function isVector({ shape }) {
  return shape.length === 1 || (shape.length === 3 && shape[1] * shape[2] === 1);
}

/** Draws a picture, shrunk if it is large. */
export function fit(canvas, picture) {
  const scale = Math.min(1, SIDE / Math.max(picture.width, picture.height));
  canvas.width = Math.ceil(picture.width * scale);
  canvas.height = Math.ceil(picture.height * scale);
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
}

/** At most BARS bars around zero, each the value of its stretch that is farthest from zero. */
function drawBars(canvas, values, { positive, negative }) {
  const count = Math.min(BARS, values.length);
  const edge = (bar) => Math.floor((bar * values.length) / count);
  const farther = (a, b) => (Math.abs(b) > Math.abs(a) ? b : a);
  const bars = Array.from({ length: count }, (_, bar) => values.slice(edge(bar), edge(bar + 1)).reduce(farther));
  const high = Math.max(0, ...bars);
  const unit = SIDE / (high - Math.min(0, ...bars) || 1);
  canvas.width = canvas.height = SIDE;
  const context = canvas.getContext("2d");
  bars.forEach((value, bar) => {
    context.fillStyle = value < 0 ? negative : positive;
    const width = SIDE / count;
    context.fillRect(bar * width, (high - Math.max(0, value)) * unit, width * 0.8, Math.abs(value) * unit);
  });
}
