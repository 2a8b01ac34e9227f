"""Where the pixels of a network's input come from in the picture that was sent: resizing, cropping and orientation."""

import math
from collections.abc import Sequence

from PIL import Image

from models.images.input_spec import InputSpec

ORIENTATION = 0x0112  # the EXIF tag


def oriented_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an image once its EXIF orientation is applied; reads no pixels."""
    turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


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
