"""Feature maps as pictures: the channels of a layer side by side, and a captioned sheet of layers."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from models.graph.node import Node
from models.images.decode import Floats, Pixels, to_pil

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


def make_tiles(value: Floats, *, aspect: float = 1.0, limits: tuple[float, float] | None = None) -> Tiles:
    """Lays out a value of any shape: (C, H, W) as C tiles, (H, W) as one, (K,) as one row of K pixels.

    Args:
        value: of one image.
        aspect: wanted width of the grid by its height.
        limits: what is black and what is white; the value's minimum and maximum if None.
    """
    channels = value if value.ndim == 3 else value.reshape(1, *(value.shape if value.ndim == 2 else (1, -1)))
    count, height, width = channels.shape
    columns = min(count, max(1, math.ceil(math.sqrt(aspect * count * height / width))))
    rows = math.ceil(count / columns)
    low, high = limits or (float(value.min()), float(value.max()))
    picture = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP), _BACKGROUND, np.uint8)
    for index, channel in enumerate(_to_grey(channels, low, high)):
        top, left = (index // columns) * (height + GAP), (index % columns) * (width + GAP)
        picture[top : top + height, left : left + width] = channel
    return Tiles(picture, columns, rows, height, width)


def draw_sheet(title: str, image: Pixels, layers: Sequence[tuple[Node, Floats]], *, width: int = 1200) -> Image.Image:
    """A picture of the image and every layer under it, each enlarged by a whole factor and captioned."""
    font = ImageFont.load_default(13)
    blocks = [(title, _enlarged(to_pil(image).convert("RGB"), 140, width))]
    for node, value in layers:
        shape = "x".join(map(str, node.shape))
        caption = f"{node.name}   {node.op}   {shape}   {value.min():.3g} to {value.max():.3g}"
        picture = to_pil(make_tiles(value, aspect=_SHEET_ASPECT).picture).convert("RGB")
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


def encode_png(image: Image.Image) -> bytes:
    """A PNG file; lightly compressed, for these are sent once."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _to_grey(channels: Floats, low: float, high: float) -> Pixels:
    scale = 255 / (high - low) if high > low else 0.0
    return ((channels - low) * scale).round().astype(np.uint8)


def _enlarged(picture: Image.Image, wanted_height: int, width: int) -> Image.Image:
    factor = max(1, min(wanted_height // picture.height, width // picture.width))
    if picture.width > width:
        return picture.resize((width, max(1, picture.height * width // picture.width)))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
