// The model's own sample images, to begin with.

import { element } from "../../core/dom.js";
import { Refusal, ask, askBlob } from "../../core/server.js";

const MOST = 8;

export class Samples {
  /** @param {HTMLElement} root @param {object} page see app.js @param {(file: File) => void} take */
  constructor(root, page, take) {
    this.root = root;
    this.page = page;
    this.take = take;
    page.store.watch(["graph"], ({ graph }) => graph && this.#load());
  }

  async #load() {
    const path = `${this.page.path()}/samples`;
    const model = this.page.store.get("model");
    this.root.replaceChildren();
    try {
      const { samples } = await ask(path);
      const chosen = samples.slice(0, MOST);
      const files = await Promise.all(chosen.map(({ index }) => askBlob(`${path}/${index}`)));
      if (model === this.page.store.get("model")) this.#paint(chosen, files);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error; // the page works without them
    }
  }

  #paint(samples, files) {
    const pictures = samples.map(({ index, prediction }, at) => {
      const button = element("button", "sample");
      const picture = element("img", "");
      picture.src = URL.createObjectURL(files[at]);
      picture.onload = () => URL.revokeObjectURL(picture.src);
      picture.alt = `Sample ${index}, which the network calls ${prediction.label}`;
      button.title = picture.alt;
      button.append(picture);
      const file = new File([files[at]], `sample ${index}.png`, { type: "image/png" });
      button.addEventListener("click", () => this.take(file));
      return button;
    });
    this.root.replaceChildren(element("span", "dim", "Samples"), ...pictures);
  }
}
