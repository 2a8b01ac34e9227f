"""Labelled images at their own size, and their splits."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.errors import UserError
from models.files import printable
from models.images.decode import Pixels

Labels = npt.NDArray[np.int64]

TEST_FRACTION = 0.2  # for data sets without a test split
SPLIT_SEED = 1998


@dataclass(frozen=True)
class LabeledImages:
    """Images at their own size, and their labels.

    Attributes:
        images: one uint8 array (N, H, W) or (N, H, W, 3), or N paths of image files.
        labels: int64 (N,).
    """

    images: Pixels | list[Path]
    labels: Labels

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise UserError(f"{len(self.images)} images have {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: npt.NDArray[np.int64]) -> "LabeledImages":
        """The images at `index`."""
        images = self.images[index] if isinstance(self.images, np.ndarray) else [self.images[i] for i in index]
        return LabeledImages(images, self.labels[index])


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """A data set before its images are resized.

    Attributes:
        name: as in config.json and the default run directory.
        size: the common (height, width), or None if sizes differ.
        background: grey level (0-255) behind transparent pixels and beyond the edges.
        sha256: over images and labels of all splits; for a folder over relative names and file bytes.
        flat: true for a folder of class folders alone, which is split here.
        test_folder: the folder used in place of a missing test/, for example "val".
        duplicates: number of test images that are byte for byte also training images.
        skipped_files: damaged files left out of all splits: relative names, and the reasons.
        passed_over: files that are no images by their suffix, or in folders that systems made, by relative name.
        ambiguous: pairs of files with the same content and different classes, by relative name.
        dark: a sentence about images of more than 8 bits that are nearly black, with the levels met.
        root: the folder that relative names begin at; None if the images are no files.
    """

    name: str
    classes: tuple[str, ...]
    train: LabeledImages
    test: LabeledImages
    validation: LabeledImages | None = None
    mode: Literal["L", "RGB"]
    size: tuple[int, int] | None
    background: int
    sha256: str
    unsplit: bool = False
    test_folder: str = ""
    duplicates: int = 0
    skipped_files: dict[str, str] = field(default_factory=dict)
    passed_over: tuple[str, ...] = ()
    ambiguous: tuple[tuple[str, str], ...] = ()
    dark: str = ""
    root: Path | None = None

    @property
    def whole(self) -> LabeledImages:
        """The training and the test images of a flat folder, together."""
        assert isinstance(self.train.images, list) and isinstance(self.test.images, list), "only folders are flat"
        return LabeledImages(
            self.train.images + self.test.images, np.concatenate([self.train.labels, self.test.labels])
        )

    def files_of(self, split: LabeledImages) -> tuple[str, ...]:
        """The images' paths relative to the folder, escaped if they are not UTF-8; empty if they are no files."""
        if self.root is None or not isinstance(split.images, list):
            return ()
        return tuple(printable(path.relative_to(self.root).as_posix()) for path in split.images)

    @property
    def counts(self) -> dict[str, int]:
        """Images by split."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: len(split) for name, split in splits.items() if split is not None}


def stratified_split(labels: Labels, *, fraction: float, seed: int) -> tuple[Labels, Labels]:
    """Sorted indices of the remaining and the split-off images, with the same fraction of every class.

    Raises:
        ValueError: a class too small for both parts.
    """
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = max(1, round(fraction * len(members)))
        if count >= len(members):
            raise UserError(f"class {label} has too few images to split: {len(members)}; it needs at least 2")
        chosen[members[:count]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def select_test_images(labels: Labels, contents: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Selects about `TEST_FRACTION` of every class for the test split of a folder, as bool (N,).

    Each image is assigned by the hash of its content, so it keeps its split when it is renamed and when others are
    added or removed, and copies are in the same split. If a class would have no image in a split, its nearest one is
    moved there; a class of copies of a single image is used only for training.
    """
    drawn = [hashlib.sha256(f"{SPLIT_SEED} {content}".encode()).digest()[:6] for content in contents]
    places = np.array([int.from_bytes(number) / 2**48 for number in drawn])  # in [0, 1), exactly
    chosen = places < TEST_FRACTION
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        if not chosen[own].any():
            chosen[own[places[own] == places[own].min()]] = True
        if chosen[own].all():
            chosen[own[places[own] == places[own].max()]] = False
    return chosen


def arrays_hash(*splits: LabeledImages) -> str:
    """SHA-256 over images and labels of splits that are arrays."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(np.asarray(split.images).tobytes())
        digest.update(split.labels.tobytes())
    return digest.hexdigest()
