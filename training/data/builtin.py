"""The built-in data sets: scikit-learn's digits and generated stripes, both 8x8 and white on black."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.images.decode import Pixels
from training.data.raw import (
    SPLIT_SEED,
    TEST_FRACTION,
    LabeledImages,
    Labels,
    RawDataset,
    arrays_hash,
    stratified_split,
)

STRIPES_COUNT = 2500


def _make_dataset(name: str, images: Pixels, labels: Labels, classes: Sequence[str]) -> RawDataset:
    whole = LabeledImages(images, labels)
    train, test = (whole.take(part) for part in stratified_split(labels, fraction=TEST_FRACTION, seed=SPLIT_SEED))
    return RawDataset(
        name=name,
        classes=tuple(classes),
        train=train,
        test=test,
        mode="L",
        size=(images.shape[1], images.shape[2]),
        background=0,
        sha256=arrays_hash(train, test),
    )


def load_digits() -> RawDataset:
    """scikit-learn's 1,797 handwritten digits, 0..16 scaled to 0..255."""
    from sklearn import datasets  # slow to import, and used only here

    bunch = datasets.load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), 0..16 to 0..255
    return _make_dataset("digits", images, bunch.target.astype(np.int64), [str(digit) for digit in range(10)])


def load_stripes() -> RawDataset:
    """2,500 waves of random phase, period, contrast and brightness, horizontal or vertical, with noise.

    Both classes have the same distribution of grey levels: vertical images are horizontal ones, transposed.
    """
    generator = np.random.default_rng(SPLIT_SEED)
    n = STRIPES_COUNT

    def draw(low: float, high: float) -> npt.NDArray[np.float64]:
        return generator.uniform(low, high, size=(n, 1, 1))

    wave = np.sin(2 * np.pi * (np.arange(8)[None, :, None] / draw(2.5, 5.0) + draw(0, 1)))  # (n, 8, 1), along rows
    images = draw(90, 165) + draw(40, 80) * np.broadcast_to(wave, (n, 8, 8))
    labels = generator.permutation(np.arange(n) % 2).astype(np.int64)
    images = np.where(labels[:, None, None] == 1, images.transpose(0, 2, 1), images)
    images = images + generator.normal(0, 8, size=images.shape)
    return _make_dataset("stripes", np.round(images).clip(0, 255).astype(np.uint8), labels, ("horizontal", "vertical"))
