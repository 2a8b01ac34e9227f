"""Decodes image bytes to a network's uint8 input; the same function in training, evaluation, export and serving.

This module does not need torch. Scaling to [0, 1] and mean/std are part of the exported graph
(`models.images.normalize`), so the results are plain uint8 pixels, height x width x channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

from models.images.depth import DEEP, Depth, darkness, depth_of, note_on, to_grey, with_stated_scale
from models.images.errors import ImageError, ImageTooNarrow, ImageUndecodable, UnsupportedMode
from models.images.fast import decode_plain, with_end
from models.images.geometry import crop_origin, orientation_of, oriented_size, resized_size, turned
from models.images.header import DEFAULT_LIMIT_PIXELS, open_image, over_limit, part_of, reason
from models.images.input_spec import INTERPOLATIONS, InputSpec
from models.images.jpeg import SIGNATURE as JPEG

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def decode_image(
    data: bytes, spec: InputSpec, *, limit_pixels: int = DEFAULT_LIMIT_PIXELS, notes: list[str] | None = None
) -> Pixels:
    """Decodes one encoded image and brings it to the size and mode of `spec`: uint8 (height, width, channels).

    Only the first frame is read; the EXIF orientation is applied, colour profiles are not.

    Args:
        data: a whole file in one of `FORMATS`.
        limit_pixels: larger images (width x height as decoded, read from the header) are refused before decoding.
        notes: gets a sentence about anything suspicious, such as levels so low that the picture is nearly black.

    Raises:
        ImageError: one of `models.images.errors`.
    """
    plain = decode_plain(data, spec, limit_pixels)
    if plain is not None:
        if plain.shape == (spec.shape if spec.mode == "RGB" else spec.shape[:2]) and spec.crop is None:
            return plain.reshape(spec.shape)
        with _named("JPEG" if data.startswith(JPEG) else "PNG"):
            return _finished(Image.fromarray(plain), spec)
    try:
        with open_image(data, limit_pixels=limit_pixels, spec=spec) as image:
            return decode_opened(image, data, spec, notes)
    except ImageUndecodable:
        completed = with_end(data)
        if completed is None:
            raise
        return decode_image(completed, spec, limit_pixels=limit_pixels, notes=notes)


def decode_picture(data: bytes, spec: InputSpec, *, limit_pixels: int = DEFAULT_LIMIT_PIXELS) -> Pixels:
    """Decodes an image at its own size, (H, W, C) in the mode of `spec`; otherwise as `decode_image`."""
    with open_image(data, limit_pixels=limit_pixels) as image:
        height, width = oriented_size(image)
    own = replace(spec, height=height, width=width, resize=(height, width), crop=None)
    return decode_image(data, own, limit_pixels=limit_pixels)


def decode_opened(image: Image.Image, data: bytes, spec: InputSpec, notes: list[str] | None = None) -> Pixels:
    """Decodes an image from `open_image`, of the file `data`, and brings it to the size and mode of `spec`."""
    with _named(str(image.format)):
        depth = depth_of(image, data)
        scaled = with_stated_scale(image, data, depth)
        if scaled is not image:
            image = turned(scaled, orientation_of(image))
        return preprocess_image(image, spec, depth=depth, notes=notes)


@contextmanager
def _named(form: str) -> Iterator[None]:
    """Whatever a decoder raises as an ImageError that names the format."""
    try:
        yield
    except UnsupportedMode as error:
        raise UnsupportedMode(f"the {form} image {error}") from None
    except ImageError:
        raise
    except Exception as error:  # OSError, ValueError, SyntaxError, EOFError, struct.error, depending on the format
        raise ImageUndecodable(f"the {form} image is truncated or damaged: {reason(error)}") from None


def preprocess_image(
    image: Image.Image, spec: InputSpec, *, depth: Depth = DEEP, notes: list[str] | None = None
) -> Pixels:
    """Brings a Pillow image of any mode and size to the mode and size of `spec`: uint8 (height, width, channels).

    A much larger JPEG is decoded at a reduced scale, see `models.images.header.DRAFT_OVERSAMPLING`.

    Args:
        depth: of its levels, if they have more than 8 bits.
        notes: see `decode_image`.

    Raises:
        ImageTooNarrow: scaling its shorter side would exceed `DEFAULT_LIMIT_PIXELS`.
        UnsupportedMode: floating point, or CIE L*a*b*.
    """
    jpeg = image.format in ("JPEG", "MPO")  # MPO: a JPEG with more behind it, as phones write them
    if jpeg and (part := part_of(spec, image.height, image.width)) > 1:
        image.draft(None, (image.width // part, image.height // part))
    image.load()
    if jpeg and image.mode == "CMYK" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # as browsers do; with Adobe's marker, Pillow does
    if notes is not None and (dark := darkness(image, depth)):
        notes.append(note_on(*dark))
    image = turned(image, orientation_of(image))
    if image.mode != spec.mode or image.has_transparency_data:
        image = to_mode(image, spec.mode, spec.background, depth=depth)
    return _finished(image, spec)


def _finished(image: Image.Image, spec: InputSpec) -> Pixels:
    if image.mode != spec.mode:
        image = image.convert(spec.mode)
    if image.size != (spec.width, spec.height) or spec.crop is not None:
        image = _to_size(image, spec)
    return np.asarray(image).reshape(spec.shape)


def to_pil(pixels: Pixels) -> Image.Image:
    """A Pillow image of a uint8 array (H, W), (H, W, 1) or (H, W, 3)."""
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def to_mode(
    image: Image.Image,
    mode: Literal["L", "RGB"],
    background: tuple[int, ...],
    *,
    depth: Depth = DEEP,
) -> Image.Image:
    """Converts to grey or RGB: 16 bits scaled, transparency over `background` (one level per channel).

    Raises:
        UnsupportedMode: floating point, or CIE L*a*b*.
    """
    if image.mode in ("F", "LAB"):
        raise UnsupportedMode(f"has pixels of the mode {image.mode}; send grey or RGB")
    if image.mode.startswith("I"):  # 16 or 32 bits, which `convert` would clip at 255 instead of scaling
        image = to_grey(image, depth)
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
