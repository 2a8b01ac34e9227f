// Formulas with their numbers: output size, parameters, and a fully connected layer's.

import { element } from "../../core/dom.js";
import { isPool } from "./maths.js";

/** Sections about a result of `slide`. */
export function facts({ op, down, across, taps, height, width, padded, sizes }, { stride, dilation }) {
  const many = (value) => value.toLocaleString("en");
  const size = ({ total, places }, length, tap) =>
    `⌊(${length} + ${total} − ${dilation} × (${tap} − 1) − 1) / ${stride}⌋ + 1 = ${places.length}`;
  const [ins, outs] = [padded.length, sizes[0]];
  const [from, to] = [ins * height * width, outs * sizes[1] * sizes[2]];
  const count = outs * (ins * taps[0] * taps[1] + 1);
  const dense = from * to + to;
  const found = {
    "Output size": op.startsWith("adaptive")
      ? ["Chosen. Window i of m over n numbers:", "⌊i × n / m⌋ to ⌈(i + 1) × n / m⌉ − 1"]
      : ["⌊(input + padding − dilation × (kernel − 1) − 1) / stride⌋ + 1",
        [height > 1 && size(down, height, taps[0]), size(across, width, taps[1])].filter(Boolean).join("\n")],
    "Parameters": isPool(op) ? ["Pooling has none."] : [
      "channels out × channels in × kernel + biases",
      `${outs} × ${ins} × ${taps.join(" × ")} + ${outs} = ${many(count)}`,
      "Fully connected: inputs × outputs + biases",
      `${many(from)} × ${many(to)} + ${many(to)} = ${many(dense)}, ${many(Math.round(dense / count))} times as many`,
    ],
  };
  return Object.entries(found).map(([title, texts]) => {
    const box = element("section", "lab-fact");
    const lines = texts.map((text, at) => element("p", at % 2 ? "lab-formula" : "dim", text));
    box.append(element("h2", "", title), ...lines);
    return box;
  });
}
