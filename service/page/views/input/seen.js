// The network's input as a picture.

import { outline, prepare } from "../../core/canvas.js";

/**
 * Draws it so that its longer side takes `room` CSS pixels, and outlines a field on it.
 * @param {{height: number, width: number, seen: CanvasImageSource | null}} input
 * @param {{left: number, top: number, right: number, bottom: number} | null} field pixels, all included
 */
export function drawInput(canvas, room, { height, width, seen }, field) {
  const zoom = room / Math.max(height, width);
  const context = prepare(canvas, width * zoom, height * zoom);
  if (!seen) return;
  context.imageSmoothingEnabled = zoom < 1;
  context.drawImage(seen, 0, 0, width * zoom, height * zoom);
  if (!field) return;
  const { left, top, right, bottom } = field;
  const [x, y, across, down] = [left, top, right - left + 1, bottom - top + 1].map((length) => length * zoom);
  const [inX, inY] = [across, down].map((length) => Math.min(1.5, length / 2 - 2)); // single pixels stay visible
  outline(context, x + inX, y + inY, across - 2 * inX, down - 2 * inY);
}
