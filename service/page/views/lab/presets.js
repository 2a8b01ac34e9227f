// The lab's arrays, kernels, controls and textbook examples.

import { range } from "./maths.js";

const SIGNALS = { edge: [-1, 2, -1], sharpen: [-1, 3, -1], blur: [1, 2, 1], Sobel: [-1, 0, 1] };
const PICTURES = {
  edge: [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]],
  sharpen: [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
  Sobel: [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
  "Sobel across": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
  difference: [[1, -1]],
};

const WEIGHTS = { // logarithms
  Gaussian: (x, size) => -8 * (x + 0.5 / size - 0.5) ** 2,
  exponential: (x) => -3 * x,
};

/** Rows of a named kernel; one row for a signal. */
export function makeKernel(name, size, flat) {
  if (name === "0, 1, 2 …") return range(flat ? 1 : size, (y) => range(size, (x) => y * size + x));
  if (PICTURES[name]) return flat && SIGNALS[name] ? [SIGNALS[name]] : PICTURES[name];
  const line = SIGNALS[name] ?? range(size, (i) => Math.exp(WEIGHTS[name]?.(i / size, size) ?? 0));
  const sum = name === "ones" ? 1 : line.reduce((a, b) => a + b);
  return (flat ? [sum] : line).map((a) => line.map((b) => (a * b) / sum / sum));
}

/** Rows of a named input. */
export function makeInput(name, n) {
  if (name === "vertical edge") return range(6, () => range(8, (x) => (x < 2 || x > 5 ? 1 : 0)));
  const noise = (i) => Math.round(100 * Math.sin((12 * i) / n) + 90 * (i > 0.6 * n) + 50 * Math.sin(1.7 * i * i)) / 100;
  if (name === "noisy signal") return [range(n, noise)];
  const side = Math.min(28, n);
  return range(name === "in a row" ? 1 : side, (y) => range(side, (x) => y * side + x + (name[0] === "1" ? 1 : 0)));
}

const DEFAULTS = {
  input: "0, 1, 2 …", n: 3, channels: 1, kernel: "0, 1, 2 …", size: 2, layer: 0, filter: 0, filters: 1,
  op: "cross-correlation", stride: 1, dilation: 1, padding: "valid", mode: "zeros", out: 2,
};
const SIGNAL = { input: "noisy signal", n: 80, op: "convolution", padding: "same", mode: "edge" };
/** What to look for, and what differs from DEFAULTS. */
export const PRESETS = {
  "Cross-correlation": ["Each output is a sum of four products: move over the output."],
  "Convolution": ["The same with the kernel turned by 180°. Networks leave that out.", { op: "convolution" }],
  "Padding": ["A border of zeros keeps 4 × 4 at 4 × 4.", { n: 4, kernel: "ones", size: 3, padding: "same" }],
  "Stride": ["The window skips every second place.", { input: "1, 2, 3 …", n: 4, kernel: "ones", stride: 2 }],
  "Stride halves a map": [
    "The window jumps two columns and two rows, so that every second position is left out: 4 of 8 remain.",
    { n: 8, kernel: "blur", padding: 1, stride: 2 },
  ],
  "Dilation": ["Nine weights reach over 5 × 5 numbers.", { n: 7, kernel: "ones", size: 3, dilation: 2 }],
  "Two channels": ["The products of both channels go into one sum.", { channels: 2 }],
  "Three filters": ["Each output channel has a kernel for every input channel.", { channels: 2, filters: 3 }],
  "1x1 kernel": ["Each output mixes the channels at one place.", { channels: 3, size: 1, filters: 2 }],
  "Max pooling": ["Only the largest number of each window remains.", { op: "max pooling" }],
  "Adaptive pooling": ["The windows fit the output size; here they overlap.", { n: 5, op: "adaptive average pooling" }],
  "Edges": ["0 where neighbours are equal. “Learn” finds [1, −1].",
    { input: "vertical edge", kernel: "difference" }],
  "Sobel": ["Large where the image changes from left to right.", { input: "image", kernel: "Sobel", padding: "same" }],
  "Moving average": ["Less noise, but the step becomes a ramp.", { ...SIGNAL, kernel: "boxcar", size: 7 }],
  "Gaussian": ["Near neighbours count more than far ones.", { ...SIGNAL, kernel: "Gaussian", size: 9 }],
};

/** Rows of controls: a label with options, or with the least and the largest number. */
export const CONTROLS = [
  { preset: ["Example", Object.keys(PRESETS)] },
  {
    input: [
      "Input",
      ["0, 1, 2 …", "1, 2, 3 …", "vertical edge", "image", "image in colour", "in a row", "noisy signal", "own"],
    ],
    n: ["size", 1, 128], channels: ["channels", 1, 4],
  },
  {
    kernel: [
      "Kernel",
      ["0, 1, 2 …", "ones", "boxcar", ...Object.keys({ ...WEIGHTS, ...SIGNALS, ...PICTURES }), "of the model", "own"],
    ],
    size: ["size", 1, 15], layer: ["layer", []], filter: ["filter", 0, 9999], filters: ["channels out", 1, 4],
  },
  {
    op: ["Operation", ["cross-correlation", "convolution", "max pooling", "average pooling",
      "adaptive max pooling", "adaptive average pooling"]],
    stride: ["stride", 1, 8], dilation: ["dilation", 1, 6], out: ["output size", 1, 28],
    padding: ["padding", ["valid", "same", "1", "2", "3", "full"]], mode: ["with", ["zeros", "reflect", "edge"]],
  },
];

/** The setting in an address such as `Stride*stride.3`: an example, and what was changed. */
export function readAddress(text = "") {
  const [name, ...changes] = text.split("*");
  const preset = PRESETS[name] ? name : "Cross-correlation";
  const changed = Object.fromEntries(changes.map((change) => change.split(".")));
  return { ...DEFAULTS, ...PRESETS[preset][1], ...changed, preset };
}

export function writeAddress(setting) {
  const standard = readAddress(setting.preset);
  const changed = Object.keys(DEFAULTS).filter((key) => setting[key] !== "own" && setting[key] != standard[key]);
  return [setting.preset, ...changed.map((key) => `${key}.${setting[key]}`)].join("*");
}

const shape = (array) => (Array.isArray(array) ? [array.length, ...shape(array[0])] : []);
const fits = (array, [count, ...rest]) =>
  count ? array.length === count && array.every((part) => fits(part, rest)) : Number.isFinite(array);

/** Numbers nested `depth` deep, from JSON, or from lines with an empty one between channels. */
export function parse(text, depth) {
  const lines = (part) => part.split("\n").map((line) => line.trim().split(/[\s,;]+/).map(Number));
  let found = text.startsWith("[") ? JSON.parse(text) : text.trim().split(/\n\s*\n/).map(lines);
  while (shape(found).length < depth) found = [found];
  const sizes = shape(found);
  const [width, height, ...counts] = sizes.toReversed();
  if (sizes.length > depth || !fits(found, sizes) || Math.max(...counts) > 4 || width * height > 1024) throw Error();
  return found;
}

/** JSON, a row a line, without brackets around a single thing. */
export function format(array) {
  if (array.length === 1 && array[0][0]?.length) return format(array[0]);
  const round = (_, value) => (value.toPrecision ? Number(value.toPrecision(7)) : value);
  return JSON.stringify(array, round).replaceAll("],", "],\n");
}
