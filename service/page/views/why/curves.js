// The deletion and insertion curves, and a slider along them.

import { element, percent, short } from "../../core/dom.js";

const [WIDTH, HEIGHT] = [300, 120];
const CHART = `<span>100&nbsp;%</span><svg viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" role="img"></svg>
  <span>0&nbsp;%</span><p><span>0&nbsp;%</span><span>of the image, highest first</span><span>100&nbsp;%</span></p>`;
/** Title, and what is done. */
const CURVES = {
  deletion: ["Deletion", "the highest places are painted over in the mean colour. Small is good: the class goes soon."],
  insertion: ["Insertion", "these alone are put into a blurred image. Large is good: the class comes back soon."],
};

export class Curves {
  /** @param {(fraction: number) => void} walked the slider moved: part of the image that is covered */
  constructor(walked) {
    this.walked = walked;
    this.slider = document.createElement("input");
    Object.assign(this.slider, { type: "range", min: 0, oninput: () => this.#walk() });
    const label = element("label", "", "Cover the highest places");
    label.append(this.slider);
    [this.element, this.areas] = ["section", "div"].map((tag) => element(tag, ""));
    [this.verdict, this.axis, this.text] = ["why-verdict", "dim", "why-text"].map((name) => element("p", name));
    this.text.setAttribute("aria-live", "polite");
    const figure = element("div", "why-plot");
    figure.innerHTML = CHART;
    this.plot = figure.children[1];
    this.element.append(element("h2", "", "Can this map be trusted?"), this.verdict, this.axis, figure, this.areas);
    this.element.append(label, this.text);
  }

  /** @param {object | null} trust of an answer @param {string} label of the class */
  show(trust, label) {
    this.element.hidden = !trust;
    if (!trust) return;
    Object.assign(this, { trust, label });
    this.plot.innerHTML = Object.keys(CURVES).map((name) => {
      const points = trust[name].map((value, index) => [WIDTH * trust.fractions[index], HEIGHT * (1 - value)]);
      return `<polyline class="why-${name}" points="${points}" />`;
    }).join("") + "<path />";
    this.verdict.textContent = verdict(trust, label);
    this.axis.textContent = `Probability of ${label}`;
    this.areas.replaceChildren(...Object.entries(CURVES).map(([name, [title, text]]) => {
      const line = element("p", "");
      line.append(element("i", `why-${name}`), `${title}, area ${short(trust[name + "_area"])}: ${text}`);
      return line;
    }));
    this.plot.setAttribute("aria-label", `${this.axis.textContent}. ${this.areas.innerText}`);
    this.slider.max = trust.fractions.length - 1;
    this.slider.value = 0;
    this.#walk();
  }

  #walk() {
    const { fractions, deletion, insertion } = this.trust;
    const step = this.slider.value;
    const part = `the highest ${percent(fractions[step])}`;
    this.plot.lastChild.setAttribute("d", `M${WIDTH * fractions[step]} 0V${HEIGHT}`);
    this.slider.setAttribute("aria-valuetext", part);
    this.text.textContent = `With ${part} painted over, as in the first map, ${this.label} has ` +
      `${percent(deletion[step])}; with these alone put back into the blurred image, ${percent(insertion[step])}.`;
    this.walked(fractions[step]);
  }
}

/**
 * A sentence on the fifth of the image that the map marks most, from two tests: more than half of the probability is
 * lost without it, and more than half comes back with it alone. Both passed is "largely", one "partly". The second
 * fails where the blur already leaves more than half, as it then tests nothing. Half and a fifth are conventions.
 */
function verdict({ fractions, deletion, insertion }, label) {
  const at = fractions.findIndex((part) => part >= 0.2);
  const half = deletion[0] / 2;
  const passed = (deletion[at] < half) + (insertion[at] > half && insertion[0] <= half);
  const idle = insertion[0] > half ? " The blurred image alone is enough, so that insertion tells nothing here." : "";
  return ["Hardly", "Partly", "Largely"][passed] + `: without the fifth of the image that it marks most, ${label} ` +
    `goes from ${percent(deletion[0])} to ${percent(deletion[at])}; with this fifth alone in a blurred image, from ` +
    `${percent(insertion[0])} to ${percent(insertion[at])}.${idle}`;
}
