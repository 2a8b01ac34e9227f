"""Feature maps as pictures: the channels of a layer side by side, and a captioned sheet of layers."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from models.graph.node import Node
from models.images.decode import Floats, Pixels, to_pil
from service.inspection.channels import ranges, to_bytes

GAP = 1  # pixels between tiles
_BACKGROUND, _INK, _FAINT = 24, 235, 140
_MARGIN, _CAPTION = 16, 20
_SHEET_ASPECT = 5.0


@dataclass(frozen=True)
class Tiles:
    """A grid of a layer's channels, row by row, in grey.

    Attributes:
        picture: uint8 (height, width); tiles are `GAP` pixels apart.
        columns, rows: of the grid.
        tile_height, tile_width: of one channel, in pixels.
    """

    picture: Pixels
    columns: int
    rows: int
    tile_height: int
    tile_width: int

    def to_png(self) -> bytes:
        """The picture as a PNG file."""
        return encode_png(to_pil(self.picture))


def make_tiles(value: Floats, *, aspect: float = 1.0, limits: tuple[Floats, Floats] | None = None) -> Tiles:
    """Lays out a value of any shape: (C, H, W) as C tiles, (H, W) as one, (K,) as one row of K pixels.

    Args:
        value: of one image.
        aspect: wanted width of the grid by its height.
        limits: what is black and what is white, for each channel; the value's minimum and maximum if None.
    """
    channels = value if value.ndim == 3 else value.reshape(1, *(value.shape if value.ndim == 2 else (1, -1)))
    count, height, width = channels.shape
    columns = min(count, max(1, math.ceil(math.sqrt(aspect * count * height / width))))
    rows = math.ceil(count / columns)
    low, high = _limits(channels, limits)
    picture = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP), _BACKGROUND, np.uint8)
    for index, channel in enumerate(to_bytes(channels, low, high)):
        top, left = (index // columns) * (height + GAP), (index % columns) * (width + GAP)
        picture[top : top + height, left : left + width] = channel
    return Tiles(picture, columns, rows, height, width)


def draw_kernels(weights: Floats, *, width: int = 1200) -> Image.Image:
    """A picture of weights: a row for each output, a tile for each input; red is positive, blue negative, white zero.

    Args:
        weights: (outputs, inputs, height, width) or (outputs, inputs).
        width: what the picture is enlarged to, by a whole factor.
    """
    if weights.ndim == 2:
        tiles = weights
    else:
        outputs, inputs, rows, columns = weights.reshape(*weights.shape[:2], -1, weights.shape[-1]).shape
        tiles = np.full((outputs * (rows + GAP) - GAP, inputs * (columns + GAP) - GAP), np.nan, np.float32)
        for place in np.ndindex(outputs, inputs):
            top, left = place[0] * (rows + GAP), place[1] * (columns + GAP)
            tiles[top : top + rows, left : left + columns] = weights[place].reshape(rows, columns)
    scale = float(np.nanmax(np.abs(tiles))) or 1.0
    share = np.nan_to_num(tiles / scale)
    colours = np.stack([1 + np.minimum(share, 0), 1 - np.abs(share), 1 - np.maximum(share, 0)], axis=-1)
    pixels = (255 * colours).round().astype(np.uint8)
    pixels[np.isnan(tiles)] = _BACKGROUND
    factor = max(1, min(width // pixels.shape[1], 24))
    return Image.fromarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1))


def draw_crops(crops: Sequence[tuple[str, Pixels]], *, side: int = 112) -> Image.Image:
    """Pictures side by side with a caption under each, enlarged to about the same size.

    Args:
        crops: captions and uint8 (h, w, 3).
        side: of the square that each is fitted into.
    """
    font = ImageFont.load_default(11)
    strip = Image.new("RGB", (len(crops) * (side + 4) + 4, side + _CAPTION + 4), (_BACKGROUND,) * 3)
    pen = ImageDraw.Draw(strip)
    for place, (caption, crop) in enumerate(crops):
        left, factor = 4 + place * (side + 4), side / max(crop.shape[:2])
        size = (max(1, round(crop.shape[1] * factor)), max(1, round(crop.shape[0] * factor)))
        strip.paste(to_pil(crop).resize(size, Image.Resampling.NEAREST), (left, 4))
        pen.text((left, side + 6), caption, font=font, fill=(_FAINT + 60,) * 3)
    return strip


def draw_sheet(
    title: str,
    image: Pixels,
    layers: Sequence[tuple[Node, Floats]],
    *,
    limits: Sequence[tuple[Floats, Floats]] | None = None,
    width: int = 1200,
) -> Image.Image:
    """A picture of the image and every layer under it, each enlarged by a whole factor and captioned.

    Args:
        limits: of each layer, see `make_tiles`.
    """
    font = ImageFont.load_default(13)
    blocks = [(title, _enlarged(to_pil(image).convert("RGB"), 140, width))]
    for place, (node, value) in enumerate(layers):
        shape = "x".join(map(str, node.shape))
        caption = f"{node.name}   {node.op}   {shape}   {value.min():.3g} to {value.max():.3g}"
        picture = to_pil(
            make_tiles(value, aspect=_SHEET_ASPECT, limits=limits[place] if limits else None).picture
        ).convert("RGB")
        blocks.append((caption, _enlarged(picture, 200 if value.ndim > 1 else 20, width)))
    height = _MARGIN + sum(picture.height + _CAPTION + _MARGIN for _, picture in blocks)
    sheet = Image.new("RGB", (width + 2 * _MARGIN, height), (_BACKGROUND,) * 3)
    pen = ImageDraw.Draw(sheet)
    top = _MARGIN
    for index, (caption, picture) in enumerate(blocks):
        pen.text((_MARGIN, top), caption, font=font, fill=(_INK,) * 3 if index == 0 else (_FAINT + 60,) * 3)
        sheet.paste(picture, (_MARGIN, top + _CAPTION))
        top += picture.height + _CAPTION + _MARGIN
    return sheet


def _limits(channels: Floats, given: tuple[Floats, Floats] | None) -> tuple[Floats, Floats]:
    """Limits of each tile; those of a vector's elements become one, for its one tile."""
    if given is None:
        return ranges([channels], "layer")[0]
    low, high = given
    return given if len(low) == len(channels) else (low.min(keepdims=True), high.max(keepdims=True))


def encode_png(image: Image.Image) -> bytes:
    """A PNG file; lightly compressed, for these are sent once."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _enlarged(picture: Image.Image, wanted_height: int, width: int) -> Image.Image:
    factor = max(1, min(wanted_height // picture.height, width // picture.width))
    if picture.width > width:
        return picture.resize((width, max(1, picture.height * width // picture.width)))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
