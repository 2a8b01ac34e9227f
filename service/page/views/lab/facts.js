// Formulas with their numbers: output size, parameters, and a fully connected layer's.

import { element } from "../../core/dom.js";
import { isPool } from "./maths.js";

/** Sections about a result of `slide`. */
export function facts({ op, down, across, taps, height, width, padded, sizes }, { stride, dilation }) {
  const many = (value) => value.toLocaleString("en");
  const size = ({ before, total, places }, length, tap) =>
    `⌊(${length} + ` + (2 * before === total ? `2 × ${before}` : `${before} + ${total - before}`) +
    ` − ${dilation} × (${tap} − 1) − 1) / ${stride}⌋ + 1 = ${places.length}`;
  const [rows, columns] = [size(down, height, taps[0]), size(across, width, taps[1])];
  const [ins, outs] = [padded.length, sizes[0]];
  const [from, to] = [ins * height * width, outs * sizes[1] * sizes[2]];
  const count = outs * ins * taps[0] * taps[1];
  const found = {
    "Output size": op.startsWith("adaptive")
      ? ["Chosen. Window i of m over n numbers:", "⌊i × n / m⌋ to ⌈(i + 1) × n / m⌉ − 1"]
      : ["⌊(input + padding on both sides − dilation × (kernel − 1) − 1) / stride⌋ + 1",
        height < 2 || rows === columns ? columns : `rows: ${rows}\ncolumns: ${columns}`],
    "Parameters": isPool(op) ? ["Pooling has none."] : [
      "channels out × channels in × kernel; a bias for each channel out would come on top",
      `${outs} × ${ins} × ${taps.join(" × ")} = ${many(count)}`,
      "Fully connected: inputs × outputs",
      `${many(from)} × ${many(to)} = ${many(from * to)}, ${many(Math.round((from * to) / count))} times as many`,
    ],
  };
  return Object.entries(found).map(([title, texts]) => {
    const box = element("section", "lab-fact");
    const lines = texts.map((text, at) => element("p", at % 2 ? "lab-formula" : "dim", text));
    box.append(element("h2", "", title), ...lines);
    return box;
  });
}
