"""The test images in a checkpoint, on which export compares files without the data set."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from models.checkpoint.samples import VerificationImages
from models.images.decode import Pixels, decode_image, decode_picture, to_pil
from models.images.geometry import oriented_size
from models.images.header import DEFAULT_LIMIT_PIXELS, open_image
from models.images.input_spec import InputSpec
from training.data.raw import RawDataset
from training.data.streaming import Dataset

COUNT = 128  # two batches of 64
RAW_COUNT = 16
LONGEST_SIDE = 512  # raw photographs are shrunk to this, as they would add megabytes to a checkpoint


def sample_test_images(
    raw: RawDataset, test: Dataset, *, limit_pixels: int = DEFAULT_LIMIT_PIXELS
) -> VerificationImages:
    """Selects images spread evenly over the test split, which may be sorted by class."""
    chosen = np.unique(np.linspace(0, len(test) - 1, COUNT).astype(np.int64))
    few = chosen[:: max(1, len(chosen) // RAW_COUNT)][:RAW_COUNT]
    taken = test.take(torch.from_numpy(chosen)).in_memory()
    originals = tuple(_original(raw.test.images[index], raw, limit_pixels) for index in few)
    return VerificationImages(taken.images.numpy(), taken.labels.numpy(), originals, test.labels.numpy()[few])


def _original(image: Pixels | Path, raw: RawDataset, limit_pixels: int) -> Pixels:
    if not isinstance(image, Path):
        return image
    channels = 1 if raw.mode == "L" else 3
    background, zero, one = ((level,) * channels for level in (raw.background, 0, 1))
    data = image.read_bytes()
    spec = InputSpec(mode=raw.mode, height=1, width=1, resize=1, crop=(1, 1), background=background, mean=zero, std=one)
    with open_image(data, limit_pixels=limit_pixels, spec=spec) as opened:
        height, width = oriented_size(opened)
    if height * width > limit_pixels:  # a JPEG, which is decoded at an eighth for as small a picture
        scale = min(LONGEST_SIDE, min(height, width) // 16) / max(height, width)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        spec = replace(spec, height=size[0], width=size[1], resize=size, crop=None)
        return decode_image(data, spec, limit_pixels=limit_pixels).reshape(size if raw.mode == "L" else spec.shape)
    picture = to_pil(decode_picture(data, spec, limit_pixels=limit_pixels))
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return np.asarray(picture)
