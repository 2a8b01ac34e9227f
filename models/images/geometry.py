"""Where the pixels of a network's input come from in the picture that was sent: resizing, cropping and orientation."""

import math
from collections.abc import Sequence

from PIL import Image

from models.images.input_spec import InputSpec

ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, from 1 to 8; 1 if there is none, or none that can be read: the pixels are sound."""
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:  # damaged metadata raise whatever their decoding meets
        return 1
    return found if found in _TURNS else 1


def oriented_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an image once its EXIF orientation is applied; reads no pixels."""
    swapped = orientation_of(image) >= 5
    return (image.width, image.height) if swapped else (image.height, image.width)


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image as its EXIF orientation says; the metadata stay as they are, and are not written back."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def resized_size(spec: InputSpec, height: int, width: int) -> tuple[int, int]:
    """(height, width) that an image is resized to before it is cropped; rounded as torchvision's Resize does."""
    if not isinstance(spec.resize, int):
        return spec.resize
    longer = int(spec.resize * max(width, height) / min(width, height))
    return (spec.resize, longer) if height <= width else (longer, spec.resize)


def crop_origin(spec: InputSpec, height: int, width: int) -> tuple[int, int]:
    """(top, left) of the crop in a resized image of this size; rounded as torchvision's CenterCrop does."""
    if spec.crop is None:
        return 0, 0
    return round((height - spec.crop[0]) / 2), round((width - spec.crop[1]) / 2)


def to_picture(spec: InputSpec, size: tuple[int, int], box: Sequence[int]) -> tuple[int, int, int, int]:
    """The pixels of a picture that a box of the network's input was made of.

    Resizing also mixes in neighbours within the filter's reach, which are left out.

    Args:
        spec: how the picture was resized and cropped.
        size: (height, width) of the picture, its EXIF orientation applied.
        box: (top, left, bottom, right) in pixels of the input, bottom and right excluded.

    Returns:
        (top, left, bottom, right) in pixels of the picture, rounded outwards and clipped to it.
    """
    resized = resized_size(spec, *size)
    origin = crop_origin(spec, *resized)
    first = [math.floor((box[axis] + origin[axis]) * size[axis] / resized[axis]) for axis in (0, 1)]
    last = [math.ceil((box[2 + axis] + origin[axis]) * size[axis] / resized[axis]) for axis in (0, 1)]
    top, left = (min(max(first[axis], 0), size[axis]) for axis in (0, 1))
    bottom, right = (max(min(last[axis], size[axis]), (top, left)[axis]) for axis in (0, 1))
    return top, left, bottom, right
