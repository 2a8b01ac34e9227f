"""Decodes image bytes to a network's uint8 input; the same function in training, evaluation, export and serving.

This module does not need torch. Scaling to [0, 1] and mean/std are part of the exported graph
(`models.images.normalize`), so the results are plain uint8 pixels, height x width x channels.
"""

from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from models.images.errors import ImageError, ImageTooNarrow, ImageUndecodable, UnsupportedMode
from models.images.geometry import ORIENTATION, crop_origin, oriented_size, resized_size
from models.images.header import DEFAULT_LIMIT_PIXELS, open_image, over_limit, reason
from models.images.input_spec import INTERPOLATIONS, InputSpec

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# A JPEG is decoded at 1/2, 1/4 or 1/8 scale if the result is at least this many times the target size. 12 megapixels
# take a quarter of the time, and 99 % of the network's input pixels stay within 5 of 255 levels.
DRAFT_OVERSAMPLING = 2


def decode_image(data: bytes, spec: InputSpec, *, limit_pixels: int = DEFAULT_LIMIT_PIXELS) -> Pixels:
    """Decodes one encoded image and brings it to the size and mode of `spec`: uint8 (height, width, channels).

    Only the first frame is read; the EXIF orientation is applied, colour profiles are not.

    Args:
        data: a whole file in one of `FORMATS`.
        limit_pixels: larger images (width x height, read from the header) are refused before decoding.

    Raises:
        ImageError: one of `models.images.errors`.
    """
    with open_image(data, limit_pixels=limit_pixels) as image:
        return decode_opened(image, spec)


def decode_picture(data: bytes, spec: InputSpec, *, limit_pixels: int = DEFAULT_LIMIT_PIXELS) -> Pixels:
    """Decodes an image at its own size, (H, W, C) in the mode of `spec`; otherwise as `decode_image`."""
    with open_image(data, limit_pixels=limit_pixels) as image:
        height, width = oriented_size(image)
        return decode_opened(image, replace(spec, height=height, width=width, resize=(height, width), crop=None))


def decode_opened(image: Image.Image, spec: InputSpec) -> Pixels:
    """Decodes an image from `open_image` and brings it to the size and mode of `spec`."""
    try:
        return preprocess_image(image, spec)
    except ImageError:
        raise
    except Exception as error:  # OSError, ValueError, SyntaxError, EOFError, struct.error, depending on the format
        raise ImageUndecodable(f"the {image.format} image is truncated or damaged: {reason(error)}") from None


def preprocess_image(image: Image.Image, spec: InputSpec) -> Pixels:
    """Brings a Pillow image of any mode and size to the mode and size of `spec`: uint8 (height, width, channels).

    A much larger JPEG is decoded at a reduced scale, see `DRAFT_OVERSAMPLING`.

    Raises:
        ImageTooNarrow: scaling its shorter side would exceed `DEFAULT_LIMIT_PIXELS`.
    """
    if image.format == "JPEG":
        _draft(image, spec)
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode != spec.mode or image.has_transparency_data:
        image = to_mode(image, spec.mode, spec.background)
    if image.size != (spec.width, spec.height) or spec.crop is not None:
        image = _to_size(image, spec)
    return np.asarray(image).reshape(spec.shape)


def to_pil(pixels: Pixels) -> Image.Image:
    """A Pillow image of a uint8 array (H, W), (H, W, 1) or (H, W, 3)."""
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def _draft(image: Image.Image, spec: InputSpec) -> None:
    width, height = image.size
    wanted = DRAFT_OVERSAMPLING * (
        spec.resize if isinstance(spec.resize, int) else max(spec.resize)
    )  # for any orientation
    for part in (8, 4, 2):
        # A size that does not divide would be rounded up, which stretches the picture.
        if width % part == 0 and height % part == 0 and min(width, height) // part >= wanted:
            image.draft(None, (width // part, height // part))
            return


def to_mode(image: Image.Image, mode: Literal["L", "RGB"], background: tuple[int, ...]) -> Image.Image:
    """Converts to grey or RGB: 16 bits scaled, transparency over `background` (one level per channel).

    Raises:
        UnsupportedMode: floating point, or CIE L*a*b*.
    """
    if image.mode.startswith("I"):  # 16-bit grey; `convert` would clip at 255 instead of scaling
        levels = np.asarray(image)
        if levels.dtype != np.uint16:
            levels = levels.clip(0, 65535).astype(np.uint16)
        return Image.fromarray((levels // 257).astype(np.uint8)).convert(mode)
    if image.mode in ("F", "LAB"):
        raise UnsupportedMode(f"the {image.format} image has pixels of the mode {image.mode}; send grey or RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        red, green, blue = background * (3 // len(background))
        backdrop = Image.new("RGBA", image.size, (red, green, blue, 255))
        image = Image.alpha_composite(backdrop, image)
    return image.convert(mode)


def _to_size(image: Image.Image, spec: InputSpec) -> Image.Image:
    width, height = image.size
    target_height, target_width = resized_size(spec, height, width)
    if target_width * target_height > DEFAULT_LIMIT_PIXELS:  # a long narrow image would take gigabytes in between
        what = f"image of {width}x{height}, scaled to {target_width}x{target_height},"
        raise ImageTooNarrow(over_limit(what, target_width * target_height, DEFAULT_LIMIT_PIXELS))
    image = image.resize((target_width, target_height), INTERPOLATIONS[spec.interpolation])
    if spec.crop is not None:
        top, left = crop_origin(spec, target_height, target_width)
        image = image.crop((left, top, left + spec.crop[1], top + spec.crop[0]))
    return image
