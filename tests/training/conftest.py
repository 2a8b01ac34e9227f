"""The data that tests of the training loop share."""

import pytest

from models.images.input_spec import InputSpec
from training.data.datasets import load_dataset
from training.data.in_memory import InMemoryDataset
from training.data.splits import Splits, prepare_splits


@pytest.fixture(scope="module")
def digits() -> tuple[InputSpec, Splits]:
    """Digits of 8x8 pixels, at most 100 in each split; only to be read."""
    spec, data = prepare_splits(load_dataset("digits"), size=(8, 8), fraction=0.1, seed=0)
    return spec, Splits(
        *(InMemoryDataset(s.images[:100], s.labels[:100]) for s in (data.train, data.validation, data.test))
    )
