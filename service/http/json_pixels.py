"""Pixels in JSON."""

from itertools import chain
from typing import Any

import numpy as np

from models.images.decode import Pixels
from service.errors import MalformedBody
from service.settings import Limit


def read_pixels(data: Any, name: str, limit_depth: Limit) -> Pixels:
    """Nested arrays of whole numbers from 0 to 255, as uint8 of the same shape.

    Args:
        name: name of the data in messages.
        limit_depth: maximum depth of nesting.

    Raises:
        MalformedBody: anything else.
    """
    # Not numpy: it first finds the common type of all elements, and one long string among them takes gigabytes.
    if not isinstance(data, list):
        raise MalformedBody(f"{name} must be an array of whole numbers, got {type(data).__name__}")
    flat, shape = data, [len(data)]
    try:
        while flat and isinstance(flat[0], list):
            lengths = set(map(len, flat))
            if len(lengths) > 1:
                raise MalformedBody(f"{name} has rows of different lengths")
            if len(shape) == limit_depth.value:
                raise MalformedBody(
                    f"{name} has arrays within one another, deeper than the limit, which is {limit_depth}"
                )
            shape += lengths
            flat = list(chain.from_iterable(flat))
    except TypeError:
        raise MalformedBody(f"{name} has numbers and rows side by side") from None
    if others := set(map(type, flat)) - {int}:
        scaled = "; pixels are from 0 to 255, as in the image" if float in others else ""
        raise MalformedBody(f"{name} must be whole numbers, got {min(other.__name__ for other in others)}{scaled}")
    try:
        return np.frombuffer(bytes(flat), np.uint8).reshape(shape)
    except ValueError:
        raise MalformedBody(f"pixels must be from 0 to 255, got {min(flat)} to {max(flat)}") from None
