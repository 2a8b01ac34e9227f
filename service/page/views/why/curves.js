// The deletion and insertion curves, and a slider along them.

import { element, percent, short } from "../../core/dom.js";

const [WIDTH, HEIGHT] = [300, 120];

export class Curves {
  /** @param {(fraction: number) => void} walked the slider moved: part of the image that is covered */
  constructor(walked) {
    this.walked = walked;
    this.plot = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.slider = document.createElement("input");
    Object.assign(this.slider, { type: "range", min: 0, oninput: () => this.#walk() });
    const label = element("label", "", "Cover the highest places");
    label.append(this.slider);
    [this.element, this.text, this.areas] = ["div", "p", "p"].map((tag) => element(tag, ""));
    this.verdict = element("p", "why-verdict");
    this.text.setAttribute("aria-live", "polite");
    this.element.append(element("h2", "", "How far can the map be trusted?"), this.verdict, this.plot);
    this.element.append(element("p", "dim", "from nothing covered to everything; height: probability, 0 to 100 %"));
    this.element.append(label, this.text, this.areas);
  }

  /** @param {object | null} trust of an answer @param {string} label of the class */
  show(trust, label) {
    this.element.hidden = !trust;
    if (!trust) return;
    Object.assign(this, { trust, label, mark: draw("path", {}) });
    const lines = ["deletion", "insertion"].map((name) => draw("polyline", {
      class: `why-${name}`,
      points: trust[name].map((value, index) => [WIDTH * trust.fractions[index], HEIGHT * (1 - value)]).join(" "),
    }));
    this.plot.replaceChildren(...lines, this.mark);
    this.verdict.textContent = verdict(trust, label);
    this.areas.replaceChildren(
      element("i", "why-deletion"), `covered: area ${short(trust.deletion_area)}, small is good; `,
      element("i", "why-insertion"), `alone: area ${short(trust.insertion_area)}, large is good`,
    );
    this.plot.setAttribute("aria-label", `Probability of ${label} while places are ${this.areas.textContent}`);
    this.slider.max = trust.fractions.length - 1;
    this.slider.value = 0;
    this.#walk();
  }

  #walk() {
    const { fractions, deletion, insertion } = this.trust;
    const step = this.slider.value;
    const part = `the highest ${percent(fractions[step])}`;
    this.mark.setAttribute("d", `M${WIDTH * fractions[step]} 0V${HEIGHT}`);
    this.slider.setAttribute("aria-valuetext", part);
    this.text.textContent = step > 0
      ? `Without ${part} of the places, ${this.label} gets ${percent(deletion[step])}; ` +
        `with these alone, the rest blurred, ${percent(insertion[step])}.`
      : `${this.label} has ${percent(deletion[0])} while nothing is covered.`;
    this.walked(fractions[step]);
  }
}

/** A sentence on the score without the fifth of the image that the map marks most. */
function verdict({ fractions, deletion }, label) {
  const [before, after] = [deletion[0], deletion[fractions.findIndex((part) => part >= 0.2)]];
  const how = after < before / 2 ? "Strong" : after < 0.9 * before ? "Some" : "Weak";
  const falls = how === "Weak" ? `still has ${percent(after)}` : `falls from ${percent(before)} to ${percent(after)}`;
  return `${how} evidence: without the fifth of the image that the map marks most, ${label} ${falls}.`;
}

function draw(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const name in attributes) made.setAttribute(name, attributes[name]);
  return made;
}
