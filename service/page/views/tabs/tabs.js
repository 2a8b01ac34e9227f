// The tabs: one view is shown at a time, and the address says which.

import { go } from "../../core/router.js";

export class Tabs {
  /**
   * @param {HTMLElement} list with role tablist; its buttons have `data-tab`, and panels have the id `panel-TAB`
   * @param {import("../../core/store.js").Store} store `tab`
   */
  constructor(list, store) {
    this.buttons = [...list.querySelectorAll("[role=tab]")];
    for (const one of this.buttons) one.addEventListener("click", () => go({ tab: one.dataset.tab }));
    list.addEventListener("keydown", (event) => this.#key(event));
    store.watch(["tab"], ({ tab }) => this.show(tab));
    this.show(store.get("tab"));
  }

  /** The names of the tabs; the first is the default. */
  get names() {
    return this.buttons.map((one) => one.dataset.tab);
  }

  show(tab) {
    for (const one of this.buttons) {
      const chosen = one.dataset.tab === tab;
      one.setAttribute("aria-selected", chosen);
      one.tabIndex = chosen ? 0 : -1;
      document.getElementById(`panel-${one.dataset.tab}`).hidden = !chosen;
    }
  }

  #key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = this.buttons.indexOf(document.activeElement);
    const next = this.buttons[(at + step + this.buttons.length) % this.buttons.length];
    next.focus();
    next.click();
  }
}
