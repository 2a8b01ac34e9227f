// The prediction as bars, the most probable class first and large.

export function percent(value) {
  if (value > 0 && value < 0.0005) return "< 0.1 %";
  return `${(100 * value).toFixed(value > 0.9994 && value < 0.99995 ? 2 : 1)} %`;
}

/** @param {HTMLElement} box @param {{label: string, probability: number}[]} predictions most probable first */
export function drawPredictions(box, predictions) {
  const [best] = predictions;
  const headline = Object.assign(document.createElement("p"), { className: "headline" });
  headline.append(Object.assign(document.createElement("strong"), { textContent: best.label }), ` ${percent(best.probability)}`);
  const list = document.createElement("ol");
  for (const { label, probability } of predictions) {
    const row = document.createElement("li");
    const [name, track, bar, value] = ["label", "track", "bar", "value"].map((className) =>
      Object.assign(document.createElement("span"), { className }),
    );
    [name.textContent, value.textContent] = [label, percent(probability)];
    bar.style.width = `${100 * probability}%`;
    track.append(bar);
    row.append(name, track, value);
    list.append(row);
  }
  box.replaceChildren(headline, list);
}
