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
    const known = unit && this.page.store.get("maps")?.references;
    const key = known ? `${this.page.path()}/${unit.layer}/${unit.channel}` : "";
    if (key === this.#shown) return;
    this.#shown = key;
    this.root.replaceChildren();
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
    }
  }

  #paint({ references, classes, channel }, { name, split, images }) {
    const many = images.toLocaleString("en");
    const title = `Channel ${channel} has its largest values here, of ${many} ${split} images of ${name}`;
    const list = element("ol", "unit-references");
    for (const { crop, label, predicted, largest, name: file, image } of references) {
      const item = element("li", "");
      const picture = element("img", "");
      picture.src = `data:image/png;base64,${crop}`;
      picture.alt = `${label}, ${file || `image ${image}`}`;
      const wrong = predicted === label ? "" : `, taken for ${predicted}`;
      item.append(picture, element("span", "", `${label}${wrong}`), element("span", "dim", short(largest)));
      list.append(item);
    }
    const most = classes.slice(0, 3).map(({ label, response }) => `${label} (${short(response)})`).join(", ");
    const responds = element("p", "dim", `On average per class its largest value is highest for ${most}.`);
    this.root.replaceChildren(element("h3", "", title), list, responds);
  }
}
