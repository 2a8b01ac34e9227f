"""A data set by its name: the images of its test split."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from models.images.decode import Pixels
from service.batch.entries import Entry, Remark, Shard
from service.batch.sources.folder import NO_COLUMNS
from training.data.datasets import load_dataset
from training.data.options import DataOptions
from training.data.raw import Labels


@dataclass(frozen=True)
class PixelsShard:
    """Some images of a data set."""

    name: str
    first: int
    images: Pixels
    labels: Labels
    classes: tuple[str, ...]

    def entries(self, needed: Callable[[int], bool]) -> Iterator[Entry]:
        """See `Shard`."""
        for number, (image, label) in enumerate(zip(self.images, self.labels, strict=True), self.first):
            yield Entry(f"test/{number:06}", pixels=image, truth=self.classes[label])


@dataclass(frozen=True)
class DatasetSource:
    """One of `training.data.datasets.DATASETS`.

    Attributes:
        name: of the data set.
        folder: searched first for its files.
    """

    name: str
    folder: Path | None = None
    extra: pa.Schema = NO_COLUMNS
    labelled: bool = True

    def count(self) -> int | None:
        """See `Source`; the images are loaded only once."""
        return None

    def shards(self, remark: Remark, block_rows: int) -> Iterator[Shard]:
        """Shards of `block_rows` images."""
        found = load_dataset(self.name, DataOptions(data_dir=self.folder))
        assert isinstance(found.test.images, np.ndarray), "data sets by name are arrays"
        for first in range(0, len(found.test), block_rows):
            part = found.test.take(np.arange(first, min(first + block_rows, len(found.test))))
            assert isinstance(part.images, np.ndarray)
            yield PixelsShard(f"{self.name} {first}", first, part.images, part.labels, found.classes)
