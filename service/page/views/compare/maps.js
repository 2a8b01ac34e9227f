// The values of one layer in two runs, and their difference.

import { Picture, arrange, drawTiles, makePalette, toCss } from "../../core/canvas.js";
import { element, short } from "../../core/dom.js";

const MOST_VALUES = 200_000; // of one layer as JSON
const SHOWN = 12; // channels
const SHADES = [0, 64, 128, 191, 255];

/** Requests a layer's values of both sides, not rounded. @returns {object | null} for `Maps.show` */
export async function readMaps(ask, paths, sides, { layer, shape }, signal) {
  const few = shape.reduce((a, b) => a * b) > MOST_VALUES; // then only the channels strongest in A
  const both = [];
  for (const [index, { image }] of sides.entries()) {
    const choice = !few ? {} : index ? { channels: both[0].channels } : { top: SHOWN };
    const query = new URLSearchParams({ layers: layer, ...choice });
    const answer = await ask(`${paths[index]}/feature-maps?${query}`, { body: image, signal });
    if (!answer) return null;
    both.push(answer.layers[0]);
  }
  const [first, second] = both.map(toChannels);
  const channels = first.map((values, place) => {
    const difference = values.map((value, index) => second[place][index] - value);
    const size = difference.reduce((sum, value) => sum + Math.abs(value), 0);
    return { index: both[0].channels?.[place] ?? place, parts: [values, second[place], difference], size };
  });
  const shown = channels.sort((a, b) => b.size - a.size).slice(0, SHOWN);
  const across = shape.length === 3 ? shape.at(both[0].channel_axis ? 1 : 2) : rowOf(first[0].length);
  return { layer, few, shown, across };
}

/** A layer's channels, each flat; a vector is one channel. */
function toChannels({ values, shape, channel_axis: axis }) {
  if (shape.length === 1) return [values];
  if (!axis) return values.map((channel) => channel.flat());
  const places = shape.length === 3 ? values.flat() : values;
  return places[0].map((_, channel) => places.map((place) => place[channel]));
}

/** The columns of a vector: one row if it is short, or about a square. */
function rowOf(length) {
  return length > 40 ? Math.ceil(Math.sqrt(length)) : length;
}

export class Maps {
  constructor(page) {
    this.page = page;
    [this.element, this.row] = [element("section", "compare-maps"), element("div", "")];
    [this.title, this.about] = [element("h2", ""), element("p", "dim")];
    this.element.append(this.title, this.row, this.about);
    this.figures = ["A", "B", "B − A"].map((name) => {
      const [figure, canvas, caption] = ["figure", "canvas", "figcaption"].map((tag) => element(tag, ""));
      canvas.setAttribute("role", "img");
      figure.append(caption, canvas);
      this.row.append(figure);
      return { name, canvas, caption };
    });
  }

  /** @param {object | null} found of `readMaps` */
  show(found) {
    this.found = found;
    this.element.hidden = !found;
    if (!found) return;
    const { layer, shown, few } = found;
    this.title.textContent = layer;
    this.about.textContent = shown.length > 1
      ? `Channels ${shown.map(({ index }) => index).join(", ")}: those ${few ? "strongest in A" : "that differ most"}.`
      : "All values, row by row.";
    this.paint();
  }

  paint() {
    const room = Math.min(300, this.row.clientWidth);
    if (!this.found || !room) return;
    const { shown, across, layer } = this.found;
    const reaches = [0, 1, 2].map((part) => Math.max(...shown.map(({ parts }) => largest(parts[part]))));
    const down = Math.ceil(shown[0].parts[0].length / across);
    const { dark, frame } = this.page.look();
    const colours = makePalette("signed", -1, 1, dark);
    for (const [part, { name, canvas, caption }] of this.figures.entries()) {
      const reach = part < 2 ? Math.max(reaches[0], reaches[1]) : reaches[2];
      const pixels = new ImageData(across, shown.length * (down + 1));
      pixels.data.fill(128); // zero
      shown.forEach(({ parts }, place) => parts[part].forEach((value, index) => {
        pixels.data[4 * (place * (down + 1) * across + index)] = 127.5 + (127.5 * value) / (reach || 1);
      }));
      const picture = new Picture({ columns: 1, tile_height: down, tile_width: across }, pixels);
      const layout = arrange(shown.length, down, across, room, devicePixelRatio);
      drawTiles(canvas, layout, picture, colours, frame);
      const [low, ramp, high] = [short(-reach), "", short(reach)].map((text) => element("span", "", text));
      ramp.style.background = `linear-gradient(90deg, ${SHADES.map((grey) => toCss(colours[grey]))})`;
      caption.replaceChildren(name, low, ramp, high);
      canvas.setAttribute("aria-label", `${name} of ${layer}; its largest absolute value is ${short(reaches[part])}`);
    }
  }
}

function largest(values) {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}
