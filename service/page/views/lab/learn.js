// A kernel is learned from an input and its output, with the loss curve.

import { button, element, short } from "../../core/dom.js";
import { Arrays } from "./arrays.js";
import { Learner } from "./maths.js";
import { plot } from "./plot.js";

const STEPS = 3000;
const CLOSE = 1e-12; // of the first loss

export class Learning {
  #timer = 0;

  /** @param {Function} look @param {MediaQueryList} still whether no movement is wanted */
  constructor(look, still) {
    Object.assign(this, { look, still });
    this.element = element("section", "lab-fact");
    this.toggle = button("", "Learn", () => (this.#timer ? this.#stop() : this.#start()));
    this.rate = element("input", "lab-number");
    this.rate.type = "number";
    this.rate.step = "any";
    this.rate.placeholder = "auto";
    this.text = element("p", "");
    this.text.role = "status";
    this.curve = element("canvas", "");
    this.curve.role = "img";
    this.found = new Arrays("learned");
    const controls = element("label", "controls", "Learning rate");
    controls.append(this.rate, this.toggle);
    this.element.append(
      element("h2", "", "Learn the kernel"),
      element("p", "dim", "From input and output alone: zeros at first, then down the gradient of the squared error."),
      controls, this.text, this.found.element, this.curve,
    );
  }

  /** Takes a result of `slide` and the kernel that made it. */
  take(result, kernel) {
    if (this.#timer) this.#stop();
    Object.assign(this, { result, kernel });
    this.curve.hidden = this.found.element.hidden = true;
    this.text.textContent = this.rate.value = "";
  }

  #start() {
    const learner = (this.learner = new Learner(this.result));
    const { losses } = learner;
    const rate = (this.rate.value ||= Number(learner.rate.toPrecision(3)));
    this.toggle.textContent = "Stop";
    this.curve.hidden = this.found.element.hidden = false;
    const ended = () => losses.length > STEPS || losses.at(-1) <= CLOSE * losses[0] || losses.at(-1) > 1e6 * losses[0];
    const turn = () => {
      const steps = this.still.matches ? STEPS : 1 + losses.length / 25;
      for (let step = 0; step < steps && !ended(); step++) learner.step(rate);
      this.#paint(learner);
      if (ended()) this.#stop();
      else this.#timer = requestAnimationFrame(turn);
    };
    this.#timer = requestAnimationFrame(turn);
  }

  #stop() {
    cancelAnimationFrame(this.#timer);
    this.#timer = 0;
    this.toggle.textContent = "Learn";
    const { losses, kernel } = this.learner;
    const learned = kernel.flat(3);
    const off = Math.max(...this.kernel.flat(3).map((value, at) => Math.abs(value - learned[at])));
    this.text.textContent += off < 0.005 ? ": this is the kernel."
      : losses.at(-1) > losses[0] ? ": the learning rate is too large."
      : losses.at(-1) < 1e-6 * losses[0] ? ": another kernel; this input cannot tell them apart." : ": not there yet.";
  }

  #paint({ losses, kernel }) {
    const look = this.look();
    const floor = Math.log10(CLOSE * losses[0] || 1);
    const points = losses.map((loss, step) => [step, Math.max(0, Math.log10(loss) - floor)]);
    this.text.textContent = `Step ${losses.length - 1}, loss ${short(losses.at(-1))}`;
    this.found.show(kernel.flat(), "Learned, and the loss by step (logarithmic)", { room: 150, look });
    const width = this.element.clientWidth - 34;
    plot(this.curve, [{ points, colour: look.positive }], [], { width, height: 90, ...look });
    this.curve.ariaLabel = `The loss falls. ${this.text.textContent}`;
  }
}
