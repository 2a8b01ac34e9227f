"""Images decoded on demand, for data sets larger than memory."""

import errno
import math
import shutil
import signal
import threading
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
_SHARED_MEMORY = Path("/dev/shm")
_ADVICE = "enlarge it (docker run --shm-size 1g), start fewer workers with --workers, or none with --workers 0"
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
    if len(tensors) < len(items):
        return next(item for item in items if isinstance(item, str))
    if torch_data.get_worker_info() is None:
        return torch.stack(tensors)
    try:  # here, as a failure in the worker's sending thread would lose the batch, and nobody would notice
        shared: Tensor = torch.empty((len(tensors), *tensors[0].shape), dtype=torch.uint8)
        shared.share_memory_()  # type: ignore[no-untyped-call]  # torch has no types for it
    except RuntimeError as error:
        return f"a batch does not fit in shared memory ({error}); {_ADVICE}"
    return torch.stack(tensors, out=shared)


def _check_shared_memory(batch_bytes: int, batches: int, workers: int) -> None:
    """Raises UserError if the batches decoded in advance do not fit in the shared memory that passes them on."""
    if not _SHARED_MEMORY.is_dir():
        return
    needed, free = batch_bytes * min(batches, PREFETCH * workers), shutil.disk_usage(_SHARED_MEMORY).free
    if needed > free:
        raise UserError(
            f"{_SHARED_MEMORY} has {free / 1e6:.1f} MB free, but {workers} workers decode up to {needed / 1e6:.1f} MB "
            f"of batches in advance; {_ADVICE}"
        )


def _start(loader: "torch_data.DataLoader[Tensor | str]") -> "Iterator[Tensor | str]":
    """Starts the workers, without torch's signal handler, which would report a dead one anywhere in the program."""
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, before)


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
        """The images at each of `indices`, decoded ahead; ValueError names a damaged file, or what workers lack."""
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
            if self.workers and indices:
                largest = max(len(index) for index in indices) * math.prod(self.spec.shape)
                _check_shared_memory(largest, len(indices), self.workers)
            self._loaders.append((order, loader))
        order, loader = self._loaders[0]
        order.batches = [index.tolist() for index in indices]
        for index, images in zip(indices, self._loaded(loader), strict=True):
            if isinstance(images, str):
                raise UserError(images)
            labels = self.labels[index.cpu()].to(self.device)
            yield InMemoryDataset(images.to(self.device, non_blocking=True), labels)

    def _loaded(self, loader: "torch_data.DataLoader[Tensor | str]") -> "Iterator[Tensor | str]":
        """What the loader returns; UserError if one of its workers dies."""
        try:
            yield from _start(loader)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise UserError(f"{_SHARED_MEMORY} is full; {_ADVICE}") from None
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                f"a worker process that decodes images died, perhaps for lack of memory ({error}); "
                "fewer are started with --workers, and none with --workers 0"
            ) from None


def sequential_batches(count: int, size: int) -> tuple[Tensor, ...]:
    """Indices of `count` images in batches of `size`; the last may be smaller."""
    return torch.split(torch.arange(count), size) if count else ()


Dataset = InMemoryDataset | StreamingDataset
