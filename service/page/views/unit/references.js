// What else excites a channel: crops of the images of a data set, where the artifact has an index of them.

import { element, short } from "../../core/dom.js";
import { Newest, Refusal, ask } from "../../core/server.js";

export class References {
  #shown = "";
  #asking = new Newest((job, signal) => this.#ask(job, signal));

  /** @param {HTMLElement} root @param {object} page see app.js */
  constructor(root, page) {
    this.root = root;
    this.page = page;
  }

  /** Shows the references of a channel; null empties the view, and so does an artifact without an index. */
  show(unit) {
    this.unit = unit;
    const known = unit && this.page.store.get("maps")?.references;
    const key = known ? `${this.page.path()}/${unit.layer}/${unit.channel}` : "";
    if (key === this.#shown) return this.#tell();
    this.#shown = key;
    this.root.replaceChildren();
    this.line = null;
    if (known) this.#asking.ask({ ...unit, key, data: known });
    else this.#asking.drop();
  }

  async #ask({ layer, channel, key, data }, signal) {
    const path = `${this.page.path()}/layers/${encodeURIComponent(layer)}/channels/${channel}/references`;
    try {
      const answer = await ask(path, { signal });
      if (key === this.#shown) this.#paint(answer, data);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error; // it is no layer of the index
      if (error.status !== 404 && key === this.#shown) this.#shown = ""; // asked for again with the next unit
    }
  }

  #paint({ references, classes, channel }, { name, split, images }) {
    const list = element("ol", "unit-references");
    const { height, width } = this.page.store.get("model").input;
    const part = ({ receptive_field: field }) =>
      field && (field.top > 0 || field.left > 0 || field.bottom < height || field.right < width);
    const where = references.some(part) ? "in the outlined places" : "on these";
    const data = `${images.toLocaleString("en")} ${split} images of ${name}`;
    const title = `${this.unit.name} ${channel} has its largest values ${where}, of ${data}`;
    for (const reference of references) {
      const { picture: png, label, predicted, largest, name: file, image } = reference;
      const item = element("li", "");
      const [frame, picture] = [element("div", "unit-reference"), element("img", "")];
      frame.append(picture);
      if (part(reference)) frame.append(outlined(reference.receptive_field, height, width));
      picture.src = `data:image/png;base64,${png}`;
      picture.alt = `${label}, ${file || "image " + image}`;
      const wrong = predicted === label ? "" : `, taken for ${predicted}`;
      item.append(frame, element("span", "dim", short(largest)), element("span", "", `${label}${wrong}`));
      list.append(item);
    }
    const most = classes.slice(0, 3).map(({ label, response }) => `${label} (${short(response)})`).join(", ");
    const responds = element("p", "dim", `Highest on average for ${most}.`);
    this.ever = references.some(({ largest }) => largest !== 0);
    this.line = element("p", "");
    this.root.replaceChildren(element("h3", "", title), list, responds, this.line);
    this.#tell();
  }

  #tell() {
    if (!this.line) return;
    const others = this.ever ? "but not on others" : "and on those";
    this.line.textContent = this.unit.silent ? `It is silent (0) on this image, ${others}.` : "";
  }
}

/** The receptive field as a box over a picture of the whole image. */
function outlined({ top, left, bottom, right }, height, width) {
  const box = element("i", "");
  const sides = { top: top / height, left: left / width, bottom: 1 - bottom / height, right: 1 - right / width };
  for (const [side, share] of Object.entries(sides)) box.style[side] = `${100 * Math.max(0, share)}%`;
  return box;
}
