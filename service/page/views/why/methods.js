// The methods in the server's order, and a table of them.

import { button, element, percent, short } from "../../core/dom.js";

/** Title, and what each does. */
export const METHODS = {
  cam: ["CAM", "weights the layer's channels by the class's weights behind the average pooling"],
  scorecam: ["Score-CAM", "weights each channel by the score if only its places are shown"],
  ablationcam: ["Ablation-CAM", "weights each channel by how far the score falls without it"],
  eigencam: ["Eigen-CAM", "shows what the channels have in common, the same for every class"],
  occlusion: ["Occlusion", "shows how far the score falls if a window over the place is covered"],
  rise: ["RISE", "adds up random masks, each weighted by the probability under it"],
  gradcam: ["Grad-CAM", "weights each channel by how fast the score grows with it on average"],
  "gradcam++": ["Grad-CAM++", "weights each channel by the places where the score grows with it"],
  layercam: ["LayerCAM", "weights each place of a channel by how fast the score grows with it"],
  saliency: ["Saliency", "shows how fast the score changes with each pixel, up or down"],
  smoothgrad: ["SmoothGrad", "shows the mean saliency of noisy copies of the image"],
  integrated_gradients: ["Integrated gradients", "adds up how the score grows from the mean colour to the image"],
};
/** Those that explain pixels, and take no layer. */
export const OF_PIXELS = ["occlusion", "rise", "saliency", "smoothgrad", "integrated_gradients"];
const HEAD = ["Method", "Layer", "Deletion area (small is good)", "Insertion area (large is good)",
  "Average drop (small is good)"];
const DROP = "Average drop: the part of the probability that is lost when the image is dimmed by the map.";

/** @param {object[]} rows of an answer to method=all @param {(method: string) => void} choose */
export function table(rows, choose) {
  const made = element("table", "table why-table");
  made.createTHead().insertRow().append(...HEAD.map((text) => element("th", "", text)));
  made.createCaption().textContent = DROP;
  const body = made.createTBody();
  for (const { method, layer, trust, reason } of rows) {
    const cells = trust
      ? [layer ?? "pixels", short(trust.deletion_area), short(trust.insertion_area), percent(trust.drop)]
      : [reason ?? "No place speaks for the class."];
    const name = element("th", "");
    name.append(button("link", METHODS[method][0], () => choose(method)));
    const row = body.insertRow();
    row.append(name, ...cells.map((text) => element("td", "", text)));
    if (!trust) row.lastChild.colSpan = 4;
  }
  return made;
}
