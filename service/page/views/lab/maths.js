// Convolution, pooling and gradient descent: input[channel][row][column], kernel[out][in][row][column].

export const range = (count, make) => Array.from({ length: Math.max(0, count) }, (_, at) => make(at));
export const isPool = (op) => op.includes("pool");
const dot = (a, b) => a.reduce((sum, value, at) => sum + value * b[at], 0);
const flip = (kernel) => kernel.map((filter) => filter.map((rows) => rows.map((row) => row.toReversed()).reverse()));

/** Where padding takes its value from; -1: from nowhere. */
function origin(place, size, mode) {
  if (place >= 0 && place < size) return place;
  if (mode === "edge") return place < 0 ? 0 : size - 1;
  const turn = 2 * size - 2 || 1;
  const folded = Math.abs(place) % turn;
  return mode === "reflect" ? Math.min(folded, turn - folded) : -1;
}

/** The padding along one axis, and the places of every window. */
function axis(size, taps, { op, stride, padding, dilation, out }) {
  if (op.startsWith("adaptive")) {
    const count = Math.min(size, out);
    const start = (i) => Math.floor((i * size) / count);
    const stop = (i) => Math.ceil(((i + 1) * size) / count);
    return { before: 0, total: 0, places: range(count, (i) => range(stop(i) - start(i), (j) => start(i) + j)) };
  }
  const reach = dilation * (taps - 1);
  const total = { valid: 0, same: reach, full: 2 * reach }[padding] ?? (size > 1 ? 2 * padding : 0);
  const before = (op === "convolution" ? Math.ceil : Math.floor)(total / 2); // around the middle of the flipped kernel
  const count = Math.floor((size + total - reach - 1) / stride) + 1;
  return { before, total, places: range(count, (i) => range(taps, (j) => i * stride + j * dilation)) };
}

/** Slides a kernel, or a pooling window of `size`, over an input. */
export function slide({ input, kernel, bias, ...setting }) {
  const { op, mode, size } = setting;
  const [height, width] = [input[0].length, input[0][0].length];
  const taps = isPool(op) ? [Math.min(height, size), size] : [kernel[0][0].length, kernel[0][0][0].length];
  const [down, across] = [axis(height, taps[0], setting), axis(width, taps[1], setting)];
  const nothing = op === "max pooling" ? null : 0; // padding is never the largest
  const padded = input.map((rows) =>
    range(height + down.total, (y) =>
      range(width + across.total, (x) =>
        rows[origin(y - down.before, height, mode)]?.[origin(x - across.before, width, mode)] ?? nothing)));
  const applied = op === "convolution" ? flip(kernel) : kernel;
  const result = { op, taps, down, across, padded, applied, bias, height, width };
  const output = (isPool(op) ? input : kernel).map((_, o) => {
    const weights = applied[o]?.flat(2);
    return down.places.map((_, y) => across.places.map((_, x) => {
      const numbers = windowOf(result, o, y, x).flat(2);
      if (op.includes("max")) return Math.max(...numbers.filter((value) => value !== null));
      return isPool(op) ? numbers.reduce((a, b) => a + b) / numbers.length : dot(numbers, weights) + (bias?.[o] ?? 0);
    }));
  });
  const sizes = [output.length, down.places.length, across.places.length];
  return { ...result, output, sizes, empty: !sizes[1] || !sizes[2] };
}

/** What the window of an output contains, by channel, row and column. */
export function windowOf({ op, padded, down, across }, o, y, x) {
  const channels = isPool(op) ? [padded[o]] : padded;
  return channels.map((rows) => down.places[y].map((row) => across.places[x].map((column) => rows[row][column])));
}

/** Gradient descent on the mean squared error, from a kernel of zeros. */
export class Learner {
  constructor(result) {
    const { output, bias } = result;
    this.result = result;
    this.windows = output[0].flatMap((row, y) => row.map((_, x) => windowOf(result, 0, y, x).flat(2)));
    this.targets = output.map((rows, o) => rows.flat().map((value) => value - (bias?.[o] ?? 0)));
    this.weights = output.map(() => this.windows[0].map(() => 0));
    this.losses = [];
    let direction = this.windows[0].map((_, tap) => 1 + tap / 9);
    for (let turn = 0; turn < 30; turn++) { // power iteration: the largest curvature
      const slope = this.#slope(direction, []);
      this.rate = 1 / (Math.hypot(...slope) || 1);
      direction = slope.map((value) => value * this.rate);
    }
  }

  #slope(weights, targets) {
    const slope = weights.map(() => 0);
    const count = this.windows.length * this.targets.length;
    this.loss = 0;
    this.windows.forEach((window, at) => {
      const error = dot(window, weights) - (targets[at] ?? 0);
      this.loss += error ** 2 / count;
      window.forEach((value, tap) => (slope[tap] += (2 * error * value) / count));
    });
    return slope;
  }

  /** Notes the loss, and changes the weights against its gradient. */
  step(rate) {
    let loss = 0;
    this.weights = this.weights.map((weights, o) => {
      const slope = this.#slope(weights, this.targets[o]);
      loss += this.loss;
      return weights.map((value, tap) => value - rate * slope[tap]);
    });
    this.losses.push(loss);
  }

  /** The kernel as it would be given. */
  get kernel() {
    const { applied, op } = this.result;
    const numbers = this.weights.flat();
    const found = applied.map((filter) => filter.map((rows) => rows.map((row) => numbers.splice(0, row.length))));
    return op === "convolution" ? flip(found) : found;
  }
}
