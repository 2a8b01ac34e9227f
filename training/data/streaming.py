"""Images decoded on demand, for data sets larger than memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data

from models.errors import UserError
from models.images.header import DEFAULT_LIMIT_PIXELS
from models.images.input_spec import InputSpec
from training.data.in_memory import InMemoryDataset, load_pixels

CHUNK = 256
PREFETCH = 4  # batches that each worker decodes in advance


class _Files(torch_data.Dataset[Tensor | str]):
    """Decoded images, uint8 (H, W, C), by index, or an error message instead of an exception with its traceback."""

    def __init__(self, paths: Sequence[str], spec: InputSpec, limit_pixels: int) -> None:
        self.limit_pixels = limit_pixels
        self.paths, self.spec = np.asarray(paths), spec  # an array, as forked workers would copy a list's pages

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            path = Path(str(self.paths[index]))
            return torch.from_numpy(np.array(load_pixels(path, self.spec, limit_pixels=self.limit_pixels)))
        except (ValueError, OSError) as error:
            return str(error)


class _BatchSequence(torch_data.Sampler[list[int]]):
    """The next batches; the loader and its workers stay."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _stack(items: list[Tensor | str]) -> Tensor | str:
    tensors = [item for item in items if not isinstance(item, str)]
    return torch.stack(tensors) if len(tensors) == len(items) else next(item for item in items if isinstance(item, str))


@dataclass(frozen=True)
class StreamingDataset:
    """Like `InMemoryDataset`, but decodes each batch from files, in persistent worker processes.

    Attributes:
        labels: int64 (N,), on the CPU.
        workers: processes that decode; 0 decodes in this one.
        device: the device of the batches.
        limit_pixels: larger images are refused.
    """

    paths: list[Path]
    labels: Tensor
    spec: InputSpec
    workers: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    limit_pixels: int = DEFAULT_LIMIT_PIXELS
    _loaders: list[tuple[_BatchSequence, torch_data.DataLoader[Tensor | str]]] = field(
        default_factory=list, init=False, compare=False
    )

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, index: Tensor) -> "StreamingDataset":
        """The images at `index`."""
        chosen = [self.paths[i] for i in index.tolist()]
        return StreamingDataset(
            chosen, self.labels[index.cpu()], self.spec, self.workers, self.device, self.limit_pixels
        )

    def to(self, device: torch.device) -> "StreamingDataset":
        """The same with batches on `device`."""
        return StreamingDataset(self.paths, self.labels, self.spec, self.workers, device, self.limit_pixels)

    def in_memory(self) -> InMemoryDataset:
        """All images, decoded, on the CPU."""
        images = torch.empty((len(self), *self.spec.shape), dtype=torch.uint8)
        order = sequential_batches(len(self), CHUNK)
        for index, batch in zip(order, self.to(torch.device("cpu")).batches(order), strict=True):
            images[index] = batch.images
        return InMemoryDataset(images, self.labels)

    def batches(self, indices: Sequence[Tensor]) -> Iterator[InMemoryDataset]:
        """The images at each of `indices`, decoded ahead; ValueError names a damaged file."""
        if not self._loaders:
            order = _BatchSequence()
            loader = torch_data.DataLoader(
                _Files([str(path) for path in self.paths], self.spec, self.limit_pixels),
                batch_sampler=order,
                num_workers=self.workers,
                collate_fn=_stack,
                persistent_workers=self.workers > 0,
                prefetch_factor=PREFETCH if self.workers else None,
                pin_memory=self.device.type == "cuda",
                generator=torch.Generator(),  # otherwise it would draw a base seed from the global generator
            )
            self._loaders.append((order, loader))
        order, loader = self._loaders[0]
        order.batches = [index.tolist() for index in indices]
        for index, images in zip(indices, loader, strict=True):
            if isinstance(images, str):
                raise UserError(images)
            labels = self.labels[index.cpu()].to(self.device)
            yield InMemoryDataset(images.to(self.device, non_blocking=True), labels)


def sequential_batches(count: int, size: int) -> tuple[Tensor, ...]:
    """Indices of `count` images in batches of `size`; the last may be smaller."""
    return torch.split(torch.arange(count), size) if count else ()


Dataset = InMemoryDataset | StreamingDataset
