"""Runs a torch module on a GPU: page-locked buffers, separate streams, and CUDA graphs for small batches.

A batch is copied into page-locked memory, from which the GPU reads while the processor continues. A small batch takes
less time on the GPU than the processor needs to launch its kernels one by one; a CUDA graph launches them together.
See CUDA C++ Programming Guide, sections "Page-Locked Host Memory", "Streams" and "CUDA Graphs".
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.engines.cuda import explain
from export.engines.protocol import DeviceLost, DeviceMemoryFull
from models.images.decode import Floats, Pixels

Module = Callable[[Tensor], tuple[Tensor, Tensor]]
GRAPH_BATCHES = (1, 2, 4, 8, 16, 32)  # other sizes up to the largest are padded
IN_FLIGHT = 2  # concurrent batches: one is computed while the next is copied
WARM_UP_RUNS = 3  # TorchScript profiles two runs and then compiles
_TIMED_RUNS = 10


class CudaRunner:
    """Maps uint8 images (N, H, W, C) in ordinary memory to probabilities and logits (N, K); thread-safe.

    When the GPU's memory is full, a batch is run in halves, down to single images.

    Args:
        module: on `device`.
        device: a GPU.
        cuda: `torch.cuda`; tests pass a substitute.
    """

    def __init__(self, module: Module, *, device: torch.device, cuda: Any = torch.cuda) -> None:
        self._module, self._device, self._cuda = module, device, cuda
        self._pool = cuda.graph_pool_handle()  # one graph runs at a time, so all can share working memory
        cuda.synchronize()  # the weights were copied on another stream
        self._turns = threading.Semaphore(IN_FLIGHT)
        self._graphs: dict[int, _Graph | None] = {}
        self._graph_lock = threading.Lock()  # guards the graphs, whose buffers hold one batch at a time

    def __call__(self, images: Pixels) -> tuple[Floats, Floats]:
        """Runs one batch.

        Raises:
            DeviceMemoryFull: not even one image fits.
            DeviceLost: the GPU no longer works; later calls in this process fail too.
        """
        try:
            return self._run(images)
        except RuntimeError as error:
            failure = explain(error)
        if not isinstance(failure, DeviceMemoryFull):
            raise failure
        # The handler above has ended, which frees the frames that kept the batch's tensors alive.
        self._cuda.empty_cache()
        if (half := len(images) // 2) == 0:
            raise failure
        parts = self(images[:half]), self(images[half:])
        probabilities, logits = (np.concatenate(rows) for rows in zip(*parts, strict=True))
        return probabilities, logits

    def _run(self, images: Pixels) -> tuple[Floats, Floats]:
        with self._turns, _borrowed_stream(self._device, self._cuda) as stream:
            size = next((size for size in GRAPH_BATCHES if size >= len(images)), None)
            if size is not None and self._graph_lock.acquire(blocking=False):
                try:
                    if (graph := self._graph(size, images.shape[1:], stream)) is not None:
                        return graph.run(images, stream)
                finally:
                    self._graph_lock.release()
            return self._launch(images, stream)

    def _launch(self, images: Pixels, stream: Any) -> tuple[Floats, Floats]:
        host = page_locked(images.shape, torch.uint8, self._device)
        host.numpy()[...] = images
        with self._cuda.stream(stream), torch.inference_mode():
            outputs = self._module(host.to(self._device, non_blocking=True))
            found = [page_locked(output.shape, output.dtype, self._device) for output in outputs]
            for output, copy in zip(outputs, found, strict=True):
                copy.copy_(output, non_blocking=True)
        stream.synchronize()
        probabilities, logits = (copy.numpy() for copy in found)
        return probabilities, logits

    def _graph(self, size: int, shape: tuple[int, ...], stream: Any) -> "_Graph | None":
        """The graph of a batch size, captured on first use; None if it is not faster or impossible."""
        if size not in self._graphs:
            self._graphs[size] = None
            blank = np.zeros((size, *shape), np.uint8)
            for _ in range(WARM_UP_RUNS):
                self._launch(blank, stream)
            try:
                graph = _Graph(self._module, (size, *shape), stream, self._device, self._cuda, self._pool)
            except RuntimeError as error:
                if isinstance(failure := explain(error), DeviceLost) and "captur" not in str(error):
                    raise failure from None
                return None  # an operation that cannot be captured, or too little memory
            if median_seconds(lambda: graph.run(blank, stream)) < median_seconds(lambda: self._launch(blank, stream)):
                self._graphs[size] = graph
        return self._graphs[size]


class _Graph:
    """The kernels of one batch size, launched together; smaller batches are padded with the buffer's old content."""

    def __init__(
        self, module: Module, shape: tuple[int, ...], stream: Any, device: torch.device, cuda: Any, pool: Any
    ) -> None:
        self._cuda = cuda
        self._host = page_locked(shape, torch.uint8, device).zero_()
        self._images = self._host.to(device)
        self._graph = cuda.CUDAGraph()
        # Other threads may allocate memory during the capture, which the mode "global" forbids.
        capture = cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local")
        with torch.inference_mode(), capture:
            self._outputs = module(self._images)
        self._found = [page_locked(output.shape, output.dtype, device) for output in self._outputs]

    def run(self, images: Pixels, stream: Any) -> tuple[Floats, Floats]:
        """Probabilities and logits, (N, K) each."""
        self._host.numpy()[: len(images)] = images
        with self._cuda.stream(stream), torch.inference_mode():
            self._images.copy_(self._host, non_blocking=True)
            self._graph.replay()
            for output, copy in zip(self._outputs, self._found, strict=True):
                copy.copy_(output, non_blocking=True)
        stream.synchronize()
        probabilities, logits = (copy.numpy()[: len(images)].copy() for copy in self._found)
        return probabilities, logits


@contextmanager
def _borrowed_stream(device: torch.device, cuda: Any) -> Iterator[Any]:
    """A stream that no other batch uses."""
    idle = _idle_streams(device, cuda)
    try:
        stream = idle.get_nowait()
    except queue.Empty:
        stream = cuda.Stream(device)
    try:
        yield stream
    finally:
        idle.put(stream)


@cache
def _idle_streams(device: torch.device, cuda: Any) -> "queue.LifoQueue[Any]":
    """Shared by all models of a process: torch keeps freed memory, and cuBLAS 32 MB on a Hopper GPU, for each stream
    that was ever used. The last one that was used is the first to be used again.
    """
    return queue.LifoQueue()


def page_locked(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Allocates from torch's pool of page-locked memory, which reuses it once the GPU has read or written it."""
    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")


def median_seconds(run: Callable[[], object]) -> float:
    """The median of several runs, after one uncounted run."""
    run()
    times = []
    for _ in range(_TIMED_RUNS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]
