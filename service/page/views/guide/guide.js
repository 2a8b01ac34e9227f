// The guide: a question mark behind each term, and a short tour on the first visit.

import { button, element } from "../../core/dom.js";
import { go } from "../../core/router.js";
import { keep, recall } from "../../core/storage.js";
import { TERMS } from "./terms.js";

const SEEN = "convscope-tour";
const TOUR = [
  [".given .frame", "Draw here, choose one of the samples, or drop any picture. The network answers at once."],
  ["#map", "This is the whole network, from the image on the left to the classes on the right. " +
    "A click shows a layer, or unfolds a stack."],
  ["#flow", "Every layer, computed by the server for your image. A click on a pixel shows its arithmetic."],
  ["[data-tab=why]", "Why this class? Maps of the places that speak for it, and how far to trust them."],
  ["[data-tab=lab]", "In the lab you can try convolution and pooling on numbers of your own."],
];

export class Guide {
  #step = 0;

  /** @param {(id: string) => HTMLElement} find by id */
  constructor(find) {
    this.box = find("tour");
    this.popover = find("term");
    this.clear = find("clear");
    this.help = find("help");
    this.help.addEventListener("click", () => this.#go(0));
    addEventListener("keydown", ({ key }) => {
      if (key === "Escape" && !this.box.hidden) this.#go(TOUR.length);
    });
    document.addEventListener("click", (event) => {
      const mark = event.target.closest?.("[data-term]");
      if (mark) this.#explain(mark);
    });
    // Early in the tab order, and the focus stays where it is: scrolling would let the tab key begin at its target.
    if (!recall("localStorage", SEEN)) this.#show();
  }

  #show() {
    for (const marked of document.querySelectorAll(".tour-target")) marked.classList.remove("tour-target");
    if (this.#step >= TOUR.length) {
      keep("localStorage", SEEN, "done");
      if (this.box.contains(document.activeElement)) this.help.focus();
      this.box.hidden = true;
      return;
    }
    const [place, text] = TOUR[this.#step];
    const target = document.querySelector(place);
    target.classList.add("tour-target");
    const next = button("primary", this.#step === TOUR.length - 1 ? "Done" : "Next", () => this.#go(this.#step + 1));
    const skip = button("", "Skip", () => this.#go(TOUR.length));
    const count = element("span", "dim", `${this.#step + 1} of ${TOUR.length}`);
    this.box.replaceChildren(element("p", "", text), count, next, skip);
    this.box.hidden = false;
    return target;
  }

  #go(step) {
    if (step === 1) { // the next steps need the layers, and an image
      go({ tab: null }, { replace: true });
      if (this.clear.disabled) document.querySelector(".sample")?.click();
    }
    this.#step = step;
    this.#show()?.scrollIntoView();
    this.box.querySelector("button")?.focus({ preventScroll: true });
  }

  #explain(mark) {
    const [sentence, preset] = TERMS[mark.dataset.term];
    const parts = [element("p", "", sentence)];
    if (preset) {
      parts.push(
        button("link", "Try it in the lab", () => {
          this.popover.hidePopover();
          go({ tab: "lab", lab: preset, layer: null, index: null });
        }),
      );
    }
    this.popover.replaceChildren(...parts);
    this.popover.showPopover();
    const box = mark.getBoundingClientRect();
    const { width, height } = this.popover.getBoundingClientRect();
    this.popover.style.left = `${Math.max(8, Math.min(box.left, innerWidth - width - 8))}px`;
    this.popover.style.top = `${box.bottom + height + 8 > innerHeight ? box.top - height - 6 : box.bottom + 6}px`;
  }
}

/** A term with a question mark behind it. */
export function term(text, name = text) {
  const made = element("span", "", text);
  const mark = element("button", "term-mark", "?");
  mark.dataset.term = name;
  mark.setAttribute("aria-label", `What is ${name === "relu" ? "ReLU" : name}?`);
  made.append(mark);
  return made;
}
