// Pictures of feature maps: from the server's grey tiles to values, colours and a layout that fits the page.

const VIRIDIS = "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725";
// Blue below zero, red or orange above; the middle is the page's background, so that zero recedes.
const SIGNED = {
  light: "053061 2166ac 4393c3 92c5de f7f7f6 f4a582 d6604d b2182b 67001f",
  dark: "a6dcff 5aa9e0 2f74ac 1f4263 15181c 6b3216 b4561f ec9048 ffd9a8",
};
const GAP = 3; // CSS pixels between tiles on the page
export const COMPACT = 16; // channels shown before "show all"

/** The decoded tiles of one value: grey levels by channel, row and column. */
export class Picture {
  /** @param {{png: string, columns: number, rows: number, tile_height: number, tile_width: number}} tiles */
  static async decode(tiles) {
    const bytes = Uint8Array.from(atob(tiles.png), (c) => c.charCodeAt(0));
    const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }), { colorSpaceConversion: "none" });
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    return new Picture(tiles, context.getImageData(0, 0, canvas.width, canvas.height));
  }

  constructor(tiles, pixels) {
    this.columns = tiles.columns;
    this.height = tiles.tile_height;
    this.width = tiles.tile_width;
    this.pixels = pixels;
  }

  /** Left and top of a channel's tile; the server leaves one pixel between tiles. */
  corner(channel) {
    return [(channel % this.columns) * (this.width + 1), Math.floor(channel / this.columns) * (this.height + 1)];
  }

  grey(channel, row, column) {
    const [left, top] = this.corner(channel);
    return this.pixels.data[4 * ((top + row) * this.pixels.width + left + column)];
  }

  /** The whole picture as a canvas, with every grey level replaced by its colour. */
  coloured(colours) {
    const { data, width, height } = this.pixels;
    const image = new ImageData(width, height);
    const out = new Uint32Array(image.data.buffer);
    for (let i = 0; i < out.length; i++) out[i] = colours[data[4 * i]];
    return toCanvas(image);
  }

  /** One or three tiles as one grey or RGB picture. */
  merged(channels) {
    const image = new ImageData(this.width, this.height);
    for (let i = 0; i < this.width * this.height; i++) {
      const [row, column] = [Math.floor(i / this.width), i % this.width];
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = this.grey(channels === 3 ? c : 0, row, column);
      image.data[4 * i + 3] = 255;
    }
    return toCanvas(image);
  }
}

/** 256 colours, as little-endian RGBA words, for the grey levels between `low` and `high`. */
export function makePalette(kind, low, high, dark) {
  const stops = kind === "viridis" ? VIRIDIS : kind === "signed" ? SIGNED[dark ? "dark" : "light"] : "000000 ffffff";
  const anchors = stops.split(" ").map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  const reach = Math.max(-low, high, 1e-30);
  return Uint32Array.from({ length: 256 }, (_, grey) => {
    const value = low + (grey / 255) * (high - low);
    const place = kind === "signed" ? 0.5 + value / reach / 2 : grey / 255;
    return mix(anchors, Math.min(1, Math.max(0, place)));
  });
}

export function toCss(word) {
  return `rgb(${word & 255} ${(word >> 8) & 255} ${(word >> 16) & 255})`;
}

/** Black or white, whichever contrasts more with a colour (WCAG's relative luminance). */
export function inkOn(word) {
  const [red, green, blue] = [0, 8, 16].map((shift) => (((word >> shift) & 255) / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 ? "#111" : "#fff";
}

function mix(anchors, place) {
  const at = place * (anchors.length - 1);
  const [a, b, t] = [anchors[Math.floor(at)], anchors[Math.ceil(at)], at % 1];
  const [red, green, blue] = a.map((x, i) => Math.round(x + t * (b[i] - x)));
  return (255 << 24) | (blue << 16) | (green << 8) | red;
}

/** The layout of `count` tiles of height x width in `room` CSS pixels: whole device pixels per value if they fit. */
export function arrange(count, height, width, room, ratio) {
  const side = count > COMPACT ? 64 : room < 520 ? 64 : 96; // tiles are at least about this wide
  const most = Math.max(1, Math.min(Math.floor(room / side), count > COMPACT ? 24 : 8));
  const columns = Math.ceil(count / Math.ceil(count / most));
  const limit = Math.min(152, room / columns - GAP);
  const longest = Math.max(height, width);
  const scale = Math.max(1, Math.floor((limit * ratio) / longest)) / ratio;
  const zoom = scale * longest > limit + 1 ? limit / longest : scale; // large maps are shrunk
  const [stepX, stepY] = [width * zoom + GAP, height * zoom + GAP];
  return { count, columns, height, width, zoom, stepX, stepY,
    pageWidth: columns * stepX - GAP, pageHeight: Math.ceil(count / columns) * stepY - GAP };
}

/** Left and top of a channel's tile; `layout.order` has the channel at each place, if they are sorted. */
export function cornerOf(layout, channel) {
  const place = layout.order ? layout.order.indexOf(channel) : channel;
  return [(place % layout.columns) * layout.stepX, Math.floor(place / layout.columns) * layout.stepY];
}

/** The unit at a point of the layout, or null between tiles. */
export function unitAt(layout, x, y) {
  const [across, down] = [Math.floor(x / layout.stepX), Math.floor(y / layout.stepY)];
  const place = down * layout.columns + across;
  const column = Math.floor((x - across * layout.stepX) / layout.zoom);
  const row = Math.floor((y - down * layout.stepY) / layout.zoom);
  const inside = across >= 0 && across < layout.columns && place >= 0 && place < layout.count;
  return inside && row >= 0 && row < layout.height && column >= 0 && column < layout.width
    ? { channel: layout.order?.[place] ?? place, row, column } : null;
}

/** Sizes a canvas in CSS pixels and returns a context that draws in them. */
export function prepare(canvas, width, height) {
  const ratio = devicePixelRatio;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.imageSmoothingEnabled = false;
  return context;
}

/** Draws the first `layout.count` tiles, or empty frames before there is a picture. */
export function drawTiles(canvas, layout, picture, colours, frame) {
  const context = prepare(canvas, layout.pageWidth, layout.pageHeight);
  const [width, height] = [layout.width * layout.zoom, layout.height * layout.zoom];
  const source = picture?.coloured(colours);
  context.imageSmoothingEnabled = layout.zoom < 1;
  context.strokeStyle = frame;
  for (let place = 0; place < layout.count; place++) {
    const channel = layout.order?.[place] ?? place;
    const [left, top] = cornerOf(layout, channel);
    if (source) {
      const [x, y] = picture.corner(channel);
      context.drawImage(source, x, y, layout.width, layout.height, left, top, width, height);
    }
    context.strokeRect(left + 0.5, top + 0.5, width - 1, height - 1);
  }
}

/** An outline visible on every colour. */
export function outline(context, x, y, width, height) {
  context.strokeStyle = "rgb(0 0 0 / 75%)";
  context.lineWidth = 4;
  context.strokeRect(x, y, width, height);
  context.strokeStyle = "#ff4fb0";
  context.lineWidth = 2;
  context.strokeRect(x, y, width, height);
}

function toCanvas(image) {
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
