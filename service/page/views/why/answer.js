// How far an answer can be trusted, in words.

import { element, percent } from "../../core/dom.js";
import { describeAll } from "../layers/details.js";

// Conventions, stated in words beside the numbers: an answer that is right in fewer than 6 of 10 cases is no help; with
// 9 of 10 it is one. The probability stands for such cases if it was measured to be off by at most 5 points; else
// the accuracy on all test images bounds it.
const [POOR, GOOD, OFF] = [0.6, 0.9, 0.05];

/** The part about the answer. @param {object} answer of /explain @param {object} metrics of the model's test */
export function judge(answer, { accuracy, calibration_error: error } = {}) {
  const [{ label, probability }] = answer.predictions;
  const known = accuracy !== undefined;
  const odds = error <= OFF ? probability : Math.min(probability, accuracy ?? 1);
  const { references, normality = [] } = answer;
  const advice = normality.some((one) => one.unusual) ? "Do not rely on it: the image is unlike the reference images"
    : odds < POOR ? "Do not rely on it"
    : known && odds >= GOOD ? "Nothing here speaks against it" : "Rely on it with care";
  const right = known ? `The model is right on ${percent(accuracy)} of its test images, and`
    : "How often the model is right was not measured; it";
  return [
    ["verdict", `${right} gives its answer, ${label}, ${percent(probability)}. ${advice}.`],
    ["odds", error >= 0 ? "On test images, the share of right answers differs from the probability given by " +
      `${(100 * error).toFixed(1)} percentage points on average.` : ""],
    ["normal", describeAll(normality.map((one) => ({ normality: one })), references, normality.length)],
  ].map(([name, text]) => element("p", `why-${name}`, text));
}
