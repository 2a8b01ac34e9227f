// Sources of the image: the pad, a file, a drop or a paste.

import { Pad } from "./pad.js";

export class Source {
  #encoding = false;
  #stale = false;

  /**
   * @param {(id: string) => HTMLElement} find by id
   * @param {{changed: (blob: Blob, finished: boolean) => void, cleared: () => void}} listeners `finished` is false
   *   while a stroke is being drawn
   */
  constructor(find, listeners) {
    this.find = find;
    this.listeners = listeners;
    this.drawn = true;
    this.pad = new Pad(find("pad"), { drawing: () => this.#encode(), lifted: () => this.#encode() });
    find("undo").addEventListener("click", () => this.#undo());
    find("clear").addEventListener("click", () => this.clear());
    find("colour").addEventListener("input", (event) => (this.pad.ink = event.target.value));
    find("center").addEventListener("change", () => this.drawn && !this.pad.empty && this.#encode());
    find("choose").addEventListener("click", () => find("file").click());
    find("file").addEventListener("change", ({ target }) => {
      this.take(target.files[0]);
      target.value = ""; // so that the same file can be chosen again
    });
    document.addEventListener("paste", (event) => this.take(event.clipboardData.files[0]));
    this.#listenForDrops();
  }

  /** Adapts the pad to a model: it uses the model's background, and a contrasting pen. */
  prepare({ input, preprocess, dataset }) {
    this.find("center").checked = dataset === "mnist";
    this.find("center-label").hidden = dataset !== "mnist";
    const levels = preprocess.background;
    const hex = (values) => `#${[0, 1, 2].map((i) => (values[i] ?? values[0]).toString(16).padStart(2, "0")).join("")}`;
    const ink = hex(levels.reduce((a, b) => a + b) / levels.length < 128 ? [255] : [0]);
    this.find("colour-label").hidden = input.mode === "L";
    this.find("colour").value = ink;
    this.pad.prepare(hex(levels), ink);
    if (this.drawn) this.clear(); // a photograph stays
  }

  /** Takes a file, if there is one; the server checks its type. */
  take(file) {
    if (!file) return;
    this.pad.clear();
    this.#dropPhoto();
    this.drawn = false;
    const photo = this.find("photo");
    photo.onerror = () => (photo.hidden = true);
    photo.onload = () => (photo.hidden = false);
    photo.src = URL.createObjectURL(file);
    this.find("given-title").textContent = file.name || "Pasted image";
    this.#buttons();
    this.listeners.changed(file, true);
  }

  clear() {
    this.pad.clear();
    this.#dropPhoto();
    this.drawn = true;
    this.#buttons();
    this.listeners.cleared();
  }

  #undo() {
    this.pad.undo();
    if (this.pad.empty) this.clear();
    else this.#encode();
  }

  async #encode() {
    if (!this.drawn) this.#dropPhoto();
    this.drawn = true;
    this.#buttons();
    this.#stale = true;
    if (this.#encoding) return; // one PNG at a time, and then the newest drawing
    this.#encoding = true;
    while (this.#stale) {
      this.#stale = false;
      const blob = await this.pad.toBlob(this.find("center").checked);
      if (this.pad.empty) break; // cleared meanwhile
      this.listeners.changed(blob, !this.pad.drawing && !this.#stale);
    }
    this.#encoding = false;
  }

  #buttons() {
    this.find("undo").disabled = this.pad.empty;
    this.find("clear").disabled = this.drawn && this.pad.empty;
    this.find("pad-hint").hidden = !this.drawn || !this.pad.empty;
  }

  #dropPhoto() {
    const photo = this.find("photo");
    if (photo.src) URL.revokeObjectURL(photo.src);
    photo.removeAttribute("src");
    photo.hidden = true;
    this.find("given-title").textContent = "Your image";
  }

  #listenForDrops() {
    const curtain = this.find("drop");
    let depth = 0; // enter and leave come for every element passed
    const show = (change) => {
      depth = Math.max(0, depth + change);
      curtain.hidden = depth === 0;
    };
    addEventListener("dragenter", (event) => event.dataTransfer.types.includes("Files") && show(1));
    addEventListener("dragleave", (event) => event.dataTransfer.types.includes("Files") && show(-1));
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      show(-depth);
      this.take(event.dataTransfer.files[0]);
    });
  }
}
