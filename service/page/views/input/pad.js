// The drawing pad: strokes by mouse, pen or finger, stored for undo.

import { centered } from "./centering.js";

const WIDTH = 0.078; // of the pad: about two pixels of 28, as in MNIST
const SOFTNESS = 0.02;

export class Pad {
  #strokes = [];
  #current = null;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {{drawing: () => void, lifted: () => void}} listeners `drawing` at each change, `lifted` at a stroke's end
   */
  constructor(canvas, listeners) {
    this.canvas = canvas;
    this.listeners = listeners;
    this.ground = "#000000";
    this.ink = "#ffffff";
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#extend(event));
    canvas.addEventListener("pointerup", () => this.#end());
    canvas.addEventListener("pointercancel", () => this.#end());
    this.redraw();
  }

  get empty() {
    return this.#strokes.length === 0;
  }

  /** True while a stroke is being drawn. */
  get drawing() {
    return this.#current !== null;
  }

  /** Sets the background and the ink, as #rrggbb, and clears the drawing. */
  prepare(ground, ink) {
    this.ground = ground;
    this.ink = ink;
    this.clear();
  }

  clear() {
    this.#strokes = [];
    this.#current = null;
    this.redraw();
  }

  undo() {
    this.#strokes.pop();
    this.redraw();
  }

  /** The drawing as a PNG file, moved to the middle if it is to be. */
  toBlob(center) {
    const canvas = center ? centered(this.canvas, this.ground) : this.canvas;
    if (canvas !== this.canvas) return canvas.convertToBlob({ type: "image/png" });
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  redraw() {
    const context = this.canvas.getContext("2d");
    context.shadowBlur = 0;
    context.fillStyle = this.ground;
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    for (const stroke of this.#strokes) this.#paint(stroke, 0);
  }

  #begin(event) {
    if (event.button !== 0 || this.#current) return;
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    this.#current = { ink: this.ink, points: [this.#place(event)], pointer: event.pointerId };
    this.#strokes.push(this.#current);
    this.#paint(this.#current, 0);
    this.listeners.drawing();
  }

  #extend(event) {
    if (this.#current?.pointer !== event.pointerId) return;
    const from = this.#current.points.length - 1;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) this.#current.points.push(this.#place(each));
    this.#paint(this.#current, from);
    this.listeners.drawing();
  }

  #end() {
    if (!this.#current) return;
    this.#current = null;
    this.listeners.lifted();
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  #paint(stroke, from) {
    const context = this.canvas.getContext("2d");
    const points = stroke.points.slice(from);
    context.strokeStyle = context.shadowColor = stroke.ink;
    context.lineWidth = WIDTH * this.canvas.width;
    context.shadowBlur = SOFTNESS * this.canvas.width;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...points[0]);
    if (points.length === 1) context.lineTo(points[0][0] + 0.1, points[0][1]); // a dot
    for (const point of points.slice(1)) context.lineTo(...point);
    context.stroke();
  }
}
