"""The files of a reference index, in the folder `references` of an artifact."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FOLDER = "references"
INDEX_FILE = "index.json"
CHANNELS_FILE = "channels.npy"  # a record for each channel of each layer, see `channel_type`
PICTURES_FILE = "pictures.npy"  # a record for each picture that is kept, see `picture_type`
COMPONENTS_FILE = "components.npy"  # principal components of each layer's channel means, (components, channels) each
PIXELS_FILE = "pictures.bin"  # the pictures, WebP files one after the other
SCHEMA = 1
CLASSES = 5  # that are kept for each channel
QUANTILES = 101  # of the distances of each layer: 0 %, 1 % and so on

Records = npt.NDArray[np.void]


def channel_type(references: int, classes: int) -> np.dtype[Any]:
    """The record of a channel.

    Fields:
        largest, picture, place: of each reference: the channel's largest value in that image, the row of the image in
            `PICTURES_FILE` (-1 if there were fewer images), and the place of the value among the layer's places.
        mean, std, low, high: of the channel's mean over its places, over all images: mean, standard deviation, and
            the quantiles 0.5 % and 99.5 %.
        response: mean of the channel's largest value over all images.
        classes, responses: the classes with the largest mean response, and that response.
    """
    return np.dtype(
        [
            ("largest", "<f4", (references,)),
            ("picture", "<i4", (references,)),
            ("place", "<i4", (references,)),
            ("mean", "<f4"),
            ("std", "<f4"),
            ("low", "<f4"),
            ("high", "<f4"),
            ("response", "<f4"),
            ("classes", "<i4", (min(classes, CLASSES),)),
            ("responses", "<f4", (min(classes, CLASSES),)),
        ]
    )


def picture_type(names: Sequence[str]) -> np.dtype[Any]:
    """The record of a picture.

    Fields:
        start, stop: its bytes in `PIXELS_FILE`.
        image: its index in the split.
        label, predicted: classes.
        name: of its file; empty if the data set has no files.
    """
    longest = max((len(name) for name in names), default=0)
    return np.dtype(
        [
            ("start", "<i8"),
            ("stop", "<i8"),
            ("image", "<i4"),
            ("label", "<i4"),
            ("predicted", "<i4"),
            ("name", f"<U{max(1, longest)}"),
        ]
    )
