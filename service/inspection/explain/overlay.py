"""Maps over pictures: the positive part in viridis, the stronger the less transparent."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from models.images.decode import Floats, Pixels

# Every sixteenth colour of viridis (van der Walt and Smith 2015, CC0), which is perceptually uniform.
_VIRIDIS = np.array(
    [
        (68, 1, 84), (72, 24, 106), (71, 45, 123), (66, 64, 134), (59, 82, 139), (51, 99, 141), (44, 114, 142),
        (38, 130, 142), (33, 145, 140), (31, 160, 136), (40, 174, 128), (63, 188, 115), (94, 201, 98), (132, 212, 75),
        (173, 220, 48), (216, 226, 25), (253, 231, 37),
    ],
    np.float32,
)  # fmt: skip
_OPAQUE = 0.8


def colours(strengths: Floats) -> npt.NDArray[np.float32]:
    """Viridis colours (..., 3) of numbers in [0, 1]."""
    places = np.linspace(0, 1, len(_VIRIDIS))
    return np.stack([np.interp(strengths, places, _VIRIDIS[:, one]) for one in range(3)], axis=-1).astype(np.float32)


def draw_overlay(picture: Pixels, strengths: Floats) -> Image.Image:
    """A picture with a map over it.

    Args:
        picture: uint8 (H, W, 1) or (H, W, 3).
        strengths: (H, W) in [0, 1], see `positive`; zeros leave the picture as it is.
    """
    opacity = _OPAQUE * np.sqrt(strengths)[..., np.newaxis]
    mixed = picture * (1 - opacity) + colours(strengths) * opacity  # (H, W, 3)
    return Image.fromarray(mixed.round().astype(np.uint8))
