// The page's error messages, with possible remedies.

import { keepToken } from "../../core/server.js";

export class Notice {
  /** @param {(id: string) => HTMLElement} find by id */
  constructor(find) {
    [this.box, this.text, this.form, this.retry] = ["notice", "notice-text", "token-form", "notice-retry"].map(find);
    this.token = find("token");
    this.refused = false;
    this.waiting = new Set(); // what is repeated after a pause
    find("notice-close").addEventListener("click", () => this.hide());
    addEventListener("close", () => this.#move(), true);
  }

  /** Shows a text until it is dismissed. */
  tell(text) {
    this.refused = false;
    this.text.textContent = text;
    this.box.hidden = false;
    this.#move();
    this.form.hidden = this.retry.hidden = true;
  }

  /**
   * Shows why the server refused: until it is dismissed, or a later request succeeds.
   * @param {import("../../core/server.js").Refusal} refusal
   * @param {() => void} again repeats the request: by itself after 429, on a click where that may help
   */
  refuse(refusal, again) {
    const { status, code, message } = refusal;
    const waitS = status === 429 ? (refusal.retryAfterS ?? 1) : null;
    const waits = waitS ? `; trying again in ${waitS} s` : "";
    const wrong = status === 401 && this.token.value ? "The server refuses this token. " : "";
    this.tell(wrong + message + waits + (status ? ` (${status} ${code})` : ""));
    this.refused = true;
    this.form.hidden = status !== 401;
    this.retry.hidden = ![0, 500, 503, 504].includes(status);
    this.retry.onclick = this.form.onsubmit = (event) => {
      event.preventDefault();
      if (event.type === "submit") keepToken(this.token.value);
      this.hide();
      again();
    };
    if (waitS) this.#later(again, waitS);
  }

  /** Repeats requests once: several may be refused at the same time, and each may repeat the others. */
  #later(again, waitS) {
    if (!this.waiting.size) {
      setTimeout(() => {
        const jobs = [...this.waiting];
        this.waiting.clear();
        for (const job of jobs) job();
      }, 1000 * waitS);
    }
    this.waiting.add(again);
  }

  /** Into the open dialog, behind which everything is inert, or back. */
  #move() {
    const dialog = document.querySelector("dialog[open]");
    if (dialog) dialog.prepend(this.box);
    else document.querySelector("main").before(this.box);
  }

  /** A request succeeded: clears earlier errors. */
  settle() {
    if (this.refused) this.hide();
  }

  hide() {
    this.refused = false;
    this.box.hidden = true;
  }
}
