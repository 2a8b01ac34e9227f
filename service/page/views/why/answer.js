// How far an answer can be trusted, in words.

import { element, percent, short } from "../../core/dom.js";

// Conventions, stated in words beside the numbers: an answer that is right in fewer than 6 of 10 cases is no help; with
// 9 of 10 it is one. The probability stands for such cases if it was measured to be off by at most 5 points; else
// the accuracy on all test images bounds it.
const [POOR, GOOD, OFF] = [0.6, 0.9, 0.05];

/** The part about the answer. @param {object} answer of /explain @param {object} metrics of the model's test */
export function judge(answer, { accuracy, calibration_error: error } = {}) {
  const [{ label, probability }] = answer.predictions;
  const known = accuracy !== undefined;
  const odds = error <= OFF ? probability : Math.min(probability, accuracy ?? 1);
  const unusual = answer.normality?.some((one) => one.unusual);
  const right = known ? `The model is right on ${percent(accuracy)} of its test images`
    : "How often the model is right was not measured; it";
  const advice = unusual ? "the image is unlike the reference images: do not rely on it"
    : odds < POOR ? "do not rely on it" : known && odds >= GOOD ? "nothing here speaks against it" : "rely on it with care";
  return [
    ["why-verdict", `${right}${known ? ", and" : ""} gives its answer, ${label}, ${percent(probability)}: ${advice}.`],
    ["", error === undefined ? "How well its probabilities match how often it is right was not measured."
      : "Among test images answered with about the same probability, the share of right answers differs from it by " +
        `${(100 * error).toFixed(1)} percentage points on average over all probabilities.`],
    ["why-normal", normality(answer)],
  ].map(([name, text]) => element("p", name, text));
}

/** How unusual the image is beside reference images. */
function normality({ references, normality: layers }) {
  if (!references) return "";
  const { images, split, name } = references;
  const data = `beside ${images.toLocaleString("en")} ${split} images of ${name}`;
  const unusual = layers.filter((one) => one.unusual).sort((a, b) => b.distance / b.limit - a.distance / a.limit);
  if (!unusual.length) return `This image is nothing unusual ${data}.`;
  const [{ layer, distance, limit }] = unusual;
  return `This image is unusual ${data}, most in ${layer}: its distance from the typical is ${short(distance)}, and ` +
    `99 % of them stay within ${short(limit)}.`;
}
