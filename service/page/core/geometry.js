// Where a layer's values lie over the image, the receptive field of a unit on the input, and its window in each layer
// it is computed from.

/**
 * How a shape lies over the image, by the server's rules: the channels' `axis`, the `grid` [height, width], and `extra`
 * tokens in front that have no place, such as the class token; null for a shape without a grid.
 */
export function gridOf(shape, { height, width }) {
  const [first, middle, last] = shape;
  const fits = (rows, columns) => Math.abs(rows * width - columns * height) <= Math.max(width, height);
  if (shape.length === 3) {
    const front = fits(middle, last) || !fits(first, middle) || first * middle === 1;
    return front ? { axis: 0, grid: [middle, last], extra: 0 } : { axis: 2, grid: [first, middle], extra: 0 };
  }
  for (const extra of shape.length === 2 ? [0, 1, 2, 5] : []) {
    const rows = Math.sqrt(((first - extra) * height) / width);
    const grid = [rows, (first - extra) / rows];
    if (grid.every((side) => side > 1 && Number.isInteger(side))) return { axis: 1, grid, extra };
  }
  return null;
}

const MOVES = /pad|flatten|view|shape|permute|transpose|identity|dropout|cat$|getitem|contiguous|expand|stochastic/i;

/** True of a layer that only copies, pads or reshapes: a silent channel of it is its parent's. */
export const moves = ({ op }) => MOVES.test(op);

/** Geometry of one graph, from the server's node table. */
export class ReceptiveFields {
  /** @param {object} graph the answer of GET /v1/models/{m}/graph */
  constructor(graph) {
    this.input = graph.input;
    this.nodes = new Map(graph.nodes.map((node) => [node.name, node]));
  }

  /**
   * The part of the input that can influence a unit, clipped: {top, left, bottom, right} inclusive, and `whole`;
   * `unknown` where the server gives none though the layer has places.
   */
  field(node, row, column) {
    const { start, jump, receptive_field: size } = node;
    const [height, width] = [this.input.height, this.input.width];
    const all = { top: 0, left: 0, bottom: height - 1, right: width - 1, whole: true };
    if (!start) return { ...all, unknown: !seesAll(node) };
    const [y, x] = [start[0] + row * jump[0], start[1] + column * jump[1]];
    const field = {
      top: Math.max(0, y),
      left: Math.max(0, x),
      bottom: Math.min(height, y + size[0]) - 1,
      right: Math.min(width, x + size[1]) - 1,
    };
    return { ...field, whole: field.bottom - field.top + 1 >= height && field.right - field.left + 1 >= width };
  }

  /** The part of a parent's tiles that a unit reads: {first, last, top, left, bottom, right} inclusive, or null. */
  window(node, parentName, { channel, row, column }) {
    const parent = this.nodes.get(parentName);
    if (parent?.shape.length !== 3) return null;
    const [depth, height, width] = parent.shape;
    if (node.shape.length === 1) return flattened(node, parent, column);
    let [first, last] = [channel, channel];
    if (node.kernel && /conv/i.test(node.op)) {
      const taps = node.kernel[0] * node.kernel[1] * node.shape.reduce((a, b) => a * b);
      const perGroup = node.macs ? Math.round(node.macs / taps) : depth; // channels one filter reads
      first = Math.floor((channel * (depth / perGroup)) / node.shape[0]) * perGroup;
      last = first + perGroup - 1;
    } else if (depth !== node.shape[0]) return null;
    const spans = [row, column].map((index, axis) => {
      const size = [height, width][axis];
      if (node.kernel) {
        const start = index * node.stride[axis] - node.padding[axis];
        return [start, start + (node.kernel[axis] - 1) * (node.dilation?.[axis] ?? 1)];
      }
      if (size === node.shape[axis + 1]) return [index, index];
      if (node.shape[axis + 1] === 1) return [0, size - 1];
      const step = node.jump && parent.jump ? node.jump[axis] / parent.jump[axis] : NaN;
      return [index * step, index * step];
    });
    if (!spans.flat().every(Number.isInteger)) return null;
    const [[top, bottom], [left, right]] = spans.map(([from, to], axis) => [
      Math.max(0, from),
      Math.min([height, width][axis] - 1, to),
    ]);
    return { first, last, top, left, bottom, right };
  }
}

/** True for a layer without places, each of whose values is made of the whole image. */
export function seesAll({ receptive_field: field, shape }) {
  return !field && (shape.length === 1 || (shape.length === 3 && shape[1] * shape[2] === 1));
}

/** What is said instead of a receptive field. */
export function seesText(node) {
  return seesAll(node) ? "sees the whole image" : "receptive field not known";
}

function flattened(node, parent, index) {
  const [depth, height, width] = parent.shape;
  if (node.op === "Linear" || depth * height * width !== node.shape[0]) return null;
  const place = index % (height * width);
  const channel = Math.floor(index / (height * width));
  const [row, column] = [Math.floor(place / width), place % width];
  return { first: channel, last: channel, top: row, bottom: row, left: column, right: column };
}
