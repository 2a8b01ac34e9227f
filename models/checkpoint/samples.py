"""samples.npz: real test images stored with a checkpoint, so that export can compare without the data set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.errors import UserError
from models.files import NPZ_ERRORS, atomic_write
from models.images.decode import Pixels

SAMPLES_FILE = "samples.npz"


@dataclass(frozen=True)
class VerificationImages:
    """Images of the test set.

    Attributes:
        images: uint8 (N, H, W, C), as the network takes them.
        labels: int64 (N,), class indices.
        raw: a few images before resizing, uint8 (H, W) or (H, W, 3) each.
        raw_labels: int64, labels of `raw`.
    """

    images: Pixels
    labels: npt.NDArray[np.int64]
    raw: tuple[Pixels, ...]
    raw_labels: npt.NDArray[np.int64]


def save_samples(path: Path, samples: VerificationImages) -> None:
    """Writes the file atomically."""
    arrays: dict[str, Any] = {f"raw_{index:03}": image for index, image in enumerate(samples.raw)}
    arrays |= {"images": samples.images, "labels": samples.labels, "labels_of_raw": samples.raw_labels}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_samples(path: Path) -> VerificationImages:
    """Reads the file; nothing in it is unpickled.

    Raises:
        ValueError: another kind of file.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            raw = tuple(file[name] for name in sorted(file.files) if name.startswith("raw_"))
            return VerificationImages(file["images"], file["labels"], raw, file["labels_of_raw"])
    except NPZ_ERRORS as error:
        raise UserError(f"{path} holds no sample images: {error}") from None
