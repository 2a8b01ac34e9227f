"""Grey and colour levels of more than 8 bits, brought to 8 bits by the scale that the file states."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.images.png import png_header, significant_bits

DARK = 16  # an image whose levels stay below this part of its scale is noted
_BITS, _PHOTOMETRIC, _MAXIMUM, _SAMPLE_FORMAT = 258, 262, 281, 339  # TIFF tags
_WHITE_IS_ZERO, _SIGNED = 0, 2


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
        return DEEP if image.mode.startswith("I") else Depth(8)  # PGM files of more bits are scaled to 16 by Pillow
    bits = int(np.max(tags.get(_BITS) or 1)) - int(np.max(tags.get(_SAMPLE_FORMAT) or 1) == _SIGNED)
    maximum = int(np.max(tags.get(_MAXIMUM) or 0))
    return Depth(bits, maximum or None, inverted=tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)


def to_grey(image: Image.Image, depth: Depth, notes: list[str] | None = None) -> Image.Image:
    """A grey image of the mode I or I;16 as L, or as LA if one of its levels is transparent.

    Args:
        notes: gets a sentence if the levels are suspiciously dark.
    """
    levels = np.asarray(image)
    if levels.dtype == np.int32 and depth.bits == 32:
        levels = levels.view(np.uint32)
    scale = _scale(levels, depth)
    _note_if_dark(int(levels.max(initial=0)), scale, notes)
    grey = (levels.clip(0, scale).astype(np.uint64) * 255 // scale).astype(np.uint8)
    made = Image.fromarray(255 - grey if depth.inverted else grey)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        made.putalpha(Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8)))
    return made


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


def _note_if_dark(largest: int, scale: int, notes: list[str] | None) -> None:
    if notes is not None and 0 < largest < scale / DARK:
        notes.append(f"its levels reach {largest:,} of {scale:,}, which is nearly black; scale them to the whole range")


def note_dark_colours(image: Image.Image, depth: Depth, notes: list[str] | None) -> None:
    """Adds the same sentence for colours of 16 bits, of which Pillow reads the upper 8."""
    if notes is not None and depth.bits == 16 and image.mode in ("RGB", "RGBA", "LA"):
        bands = [int(high) for _, high in cast(tuple[tuple[float, float], ...], image.getextrema())]
        _note_if_dark(256 * max(bands[:3] if len(bands) > 2 else bands[:1]), 65535, notes)
