"""The test images in a checkpoint, on which export compares files without the data set."""

from pathlib import Path

import numpy as np
import torch

from models.checkpoint.samples import VerificationImages
from models.images.decode import Pixels, decode_picture, to_pil
from models.images.input_spec import InputSpec
from training.data.raw import RawDataset
from training.data.streaming import Dataset

COUNT = 128  # two batches of 64
RAW_COUNT = 16
LONGEST_SIDE = 512  # raw photographs are shrunk to this, as they would add megabytes to a checkpoint


def sample_test_images(raw: RawDataset, test: Dataset) -> VerificationImages:
    """Selects images spread evenly over the test split, which may be sorted by class."""
    chosen = np.unique(np.linspace(0, len(test) - 1, COUNT).astype(np.int64))
    few = chosen[:: max(1, len(chosen) // RAW_COUNT)][:RAW_COUNT]
    taken = test.take(torch.from_numpy(chosen)).in_memory()
    originals = tuple(_original(raw.test.images[index], raw) for index in few)
    return VerificationImages(taken.images.numpy(), taken.labels.numpy(), originals, test.labels.numpy()[few])


def _original(image: Pixels | Path, raw: RawDataset) -> Pixels:
    if not isinstance(image, Path):
        return image
    channels = 1 if raw.mode == "L" else 3
    background, zero, one = ((level,) * channels for level in (raw.background, 0, 1))
    spec = InputSpec(mode=raw.mode, height=1, width=1, resize=1, crop=(1, 1), background=background, mean=zero, std=one)
    picture = to_pil(decode_picture(image.read_bytes(), spec))
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return np.asarray(picture)
