// The page's error messages, with possible remedies.

import { keepToken } from "../../core/server.js";

export class Notice {
  /** @param {(id: string) => HTMLElement} find by id */
  constructor(find) {
    [this.box, this.text, this.form, this.retry] = ["notice", "notice-text", "token-form", "notice-retry"].map(find);
    this.token = find("token");
    this.refused = false; // the text is of a refusal
    this.refusals = 0; // so far
    this.jobs = new Set(); // what was refused and a click repeats
    this.waiting = new Set(); // what is repeated after a pause
    find("notice-close").addEventListener("click", () => this.hide());
    addEventListener("close", () => this.#move(), true);
  }

  /** Shows a text until it is dismissed. */
  tell(text) {
    this.refused = false;
    this.jobs.clear();
    this.#show(text);
  }

  #show(text) {
    this.text.textContent = text;
    this.box.hidden = false;
    this.#move();
    this.form.hidden = this.retry.hidden = true;
  }

  /**
   * Shows why the server refused: until it is dismissed, or `settle` clears it.
   * @param {import("../../core/server.js").Refusal} refusal
   * @param {(() => void)?} again repeats the request: by itself after 429, on a click where that may help; the same
   *   function each time, or null if nobody waits for the answer
   */
  refuse(refusal, again) {
    const { status, code, message } = refusal;
    const waitS = status === 429 ? (refusal.retryAfterS ?? 1) : null;
    const waits = waitS ? `; trying again in ${waitS} s` : "";
    const wrong = status === 401 && this.token.value ? "The server refuses this token. " : "";
    this.#show(wrong + message + waits + (status ? ` (${status} ${code})` : ""));
    this.refused = true;
    this.refusals += 1;
    if (again) this.jobs.add(again);
    this.form.hidden = status !== 401;
    this.retry.hidden = !this.jobs.size || ![0, 500, 503, 504].includes(status);
    this.retry.onclick = this.form.onsubmit = (event) => {
      event.preventDefault();
      if (event.type === "submit") keepToken(this.token.value);
      const jobs = [...this.jobs];
      this.hide();
      for (const job of jobs) job();
    };
    if (waitS && again) this.#later(again, waitS);
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
    const main = document.querySelector("main");
    if (this.box.parentElement === (dialog ?? main.parentElement)) return; // moving it would take the focus away
    if (dialog) dialog.prepend(this.box);
    else main.before(this.box);
  }

  /**
   * A request succeeded; the last refusal is cleared once all that can be repeated has succeeded.
   * @param {number} refusals before the request began: it says nothing about later ones
   * @param {(() => void)?} again of the request, see `refuse`
   */
  settle(refusals, again) {
    if (!this.refused || refusals !== this.refusals) return;
    this.jobs.delete(again);
    this.waiting.delete(again);
    if (!this.jobs.size) this.hide();
  }

  hide() {
    this.refused = false;
    this.jobs.clear();
    this.box.hidden = true;
  }
}
