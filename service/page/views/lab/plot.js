// Line plots: signals, and the loss.

import { prepare } from "../../core/canvas.js";

/** Draws lines, {points, colour, dot}, and bars, of [x, y] each. */
export function plot(canvas, lines, bars, { width, height, frame, positive, negative }) {
  const context = prepare(canvas, width, height);
  const all = [...lines.flatMap(({ points }) => points), ...bars];
  const [across, up] = [0, 1].map((axis) => all.map((point) => point[axis]));
  const [first, low, high] = [Math.min(...across), Math.min(0, ...up), Math.max(1e-9, ...up)];
  const step = (width - 12) / (Math.max(...across) - first || 1);
  const at = ([x, y]) => [6 + (x - first) * step, 6 + ((high - y) / (high - low)) * (height - 12)];
  const zero = at([0, 0])[1];
  context.fillStyle = frame;
  context.fillRect(0, zero, width, 1);
  for (const bar of bars) {
    const [x, y] = at(bar);
    context.fillStyle = bar[1] < 0 ? negative : positive;
    context.fillRect(x - step * 0.3, zero, step * 0.6, y - zero);
  }
  for (const { points, colour, dot } of lines) {
    context.strokeStyle = context.fillStyle = colour;
    context.lineWidth = dot ? 2.5 : 1.2;
    context.beginPath();
    for (const point of points) context.lineTo(...at(point));
    context.stroke();
    if (!dot) continue;
    context.beginPath();
    context.arc(...at(dot), 5, 0, 7);
    context.fill();
  }
}
