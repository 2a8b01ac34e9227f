"""Grey and colour levels of more than 8 bits, brought to 8 bits by the scale that the file states."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyspng
from PIL import Image, ImageFile

from models.images.png import png_header, significant_bits

DARK = 16  # an image whose levels stay below this part of its scale is noted
_BITS, _PHOTOMETRIC, _MAXIMUM, _SAMPLE_FORMAT = 258, 262, 281, 339  # TIFF tags
_WHITE_IS_ZERO, _SIGNED = 0, 2
_COLOURS = ("RGB", "RGBA", "LA")  # modes of 16-bit PNGs of which Pillow reads the upper 8 bits


@dataclass(frozen=True)
class Depth:
    """How a file stores its levels.

    Attributes:
        bits: of one level as stored.
        maximum: the level of white, if the file states one besides; None otherwise.
        shift: lower bits that a sample of so many significant bits does not need.
        inverted: zero is white.
    """

    bits: int
    maximum: int | None = None
    shift: int = 0
    inverted: bool = False


DEEP = Depth(16)


def depth_of(image: Image.Image, data: bytes) -> Depth:
    """Reads the depth of an opened file from its header."""
    header = png_header(data)
    if header is not None:
        bits = header[2]
        significant = significant_bits(data) if bits == 16 else None
        if significant is None or not 0 < significant < bits:
            return Depth(bits)
        return Depth(bits, 2**significant - 1, bits - significant)
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        # PGM and PPM files of more than 8 bits; Pillow scales grey ones to 16.
        deep = image.mode.startswith("I") or any(tile.codec_name.startswith("ppm") for tile in _tiles(image))
        return DEEP if deep else Depth(8)
    bits = int(np.max(tags.get(_BITS) or 1)) - int(np.max(tags.get(_SAMPLE_FORMAT) or 1) == _SIGNED)
    maximum = int(np.max(tags.get(_MAXIMUM) or 0))
    return Depth(bits, maximum or None, inverted=tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)


def _tiles(image: Image.Image) -> "list[ImageFile._Tile]":
    return getattr(image, "tile", [])


def to_grey(image: Image.Image, depth: Depth) -> Image.Image:
    """A grey image of the mode I or I;16 as L, or as LA if one of its levels is transparent."""
    levels = _levels(image, depth)
    scale = _scale(levels, depth)
    grey = (levels.clip(0, scale).astype(np.uint64) * 255 // scale).astype(np.uint8)
    made = Image.fromarray(255 - grey if depth.inverted else grey)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        made.putalpha(Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8)))
    return made


def _levels(image: Image.Image, depth: Depth) -> npt.NDArray[np.integer[Any]]:
    levels = np.asarray(image)
    return levels.view(np.uint32) if levels.dtype == np.int32 and depth.bits == 32 else levels


def _scale(levels: npt.NDArray[np.integer[Any]], depth: Depth) -> int:
    """The level of white."""
    full = int(2**depth.bits - 1)
    stated = depth.maximum
    if stated is None or int(levels.max(initial=0)) > stated:
        return full
    # The PNG specification wants samples moved to the upper bits, and gives their number only for information; many
    # writers store them as they are.
    upper = levels >> depth.shift << depth.shift
    moved = (levels == upper).all() or (levels == upper | upper >> (depth.bits - depth.shift)).all()
    return full if depth.shift and moved else stated


def with_stated_scale(image: Image.Image, data: bytes, depth: Depth) -> Image.Image:
    """A PNG of 16-bit colours by the scale that it states; any other image as it is, and a damaged one."""
    if depth.maximum is None or image.mode not in ("RGB", "RGBA") or png_header(data) is None:
        return image
    try:
        levels = pyspng.load(data)  # RGBA
    except (ValueError, RuntimeError):
        return image
    scale = _scale(levels[..., :3], depth)
    if scale == 2**depth.bits - 1:
        return image
    bands = [levels[..., band].clip(0, scale).astype(np.uint32) * 255 // scale for band in range(4)]
    clear = image.info.get("transparency")
    if isinstance(clear, tuple):
        bands[3][(levels[..., :3] == clear).all(axis=2)] = 0
    opaque = image.mode == "RGB" and clear is None
    return Image.fromarray(np.stack(bands[:3] if opaque else bands, axis=2).astype(np.uint8))


def darkness(image: Image.Image, depth: Depth) -> tuple[int, int] | None:
    """The largest level and that of white, of a loaded image whose levels are suspiciously dark; None for others.

    Those of 8 bits or fewer, and of one level of 0 alone, are not suspicious.
    """
    if image.mode.startswith("I"):
        levels = _levels(image, depth)
        largest, scale = int(levels.max(initial=0)), _scale(levels, depth)
    elif depth.bits == 16 and image.mode in _COLOURS:
        bands = [int(high) for _, high in cast(tuple[tuple[float, float], ...], image.getextrema())]
        largest, scale = 256 * max(bands[:3] if len(bands) > 2 else bands[:1]), 65535
    else:
        return None
    return (largest, scale) if 0 < DARK * largest <= scale + 1 else None


def note_on(largest: int, scale: int) -> str:
    """The sentence about a dark image."""
    return f"its levels reach {largest:,} of {scale:,}, which is nearly black; scale them to the whole range"
