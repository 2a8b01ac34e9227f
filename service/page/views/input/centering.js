// Drawings brought to the middle, as MNIST's digits are: the longer side of the ink takes 20 of 28 pixels, and its
// centre of mass is the centre of the image (LeCun, Cortes and Burges, The MNIST Database).

const BOX = 20 / 28;

/** A canvas with the ink of another scaled and centred; the same canvas if there is no ink. */
export function centered(canvas, ground) {
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  const empty = parseInt(ground.slice(1, 3), 16);
  let [mass, x, y, left, right, top, bottom] = [0, 0, 0, width, -1, height, -1];
  for (let at = 0; at < width * height; at++) {
    const ink = Math.abs(data[4 * at] - empty);
    if (ink < 32) continue;
    const [column, row] = [at % width, Math.floor(at / width)];
    [mass, x, y] = [mass + ink, x + ink * column, y + ink * row];
    [left, right] = [Math.min(left, column), Math.max(right, column)];
    [top, bottom] = [Math.min(top, row), Math.max(bottom, row)];
  }
  if (!mass) return canvas;
  const scale = (BOX * width) / Math.max(right - left + 1, bottom - top + 1);
  const made = new OffscreenCanvas(width, height);
  const context = made.getContext("2d");
  context.fillStyle = ground;
  context.fillRect(0, 0, width, height);
  context.translate(width / 2, height / 2);
  context.scale(scale, scale);
  context.drawImage(canvas, -(x / mass + 0.5), -(y / mass + 0.5));
  return made;
}
