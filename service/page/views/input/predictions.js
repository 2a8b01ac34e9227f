// The prediction as bars, the most probable class first and large.

import { bar, element, percent } from "../../core/dom.js";

/** @param {HTMLElement} box @param {{label: string, probability: number}[]} predictions most probable first */
export function drawPredictions(box, predictions) {
  const [best] = predictions;
  const headline = element("p", "headline");
  headline.append(element("strong", "", best.label), ` ${percent(best.probability)}`);
  const list = document.createElement("ol");
  for (const { label, probability } of predictions) {
    const row = element("li", "");
    row.append(element("span", "label", label), bar(probability), element("span", "value", percent(probability)));
    list.append(row);
  }
  box.replaceChildren(headline, list);
}
