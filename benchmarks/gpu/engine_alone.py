"""The engine of the server alone: the same file, precision and device, called without a server around it."""

import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.gpu.options import Options
from export.artifact.formats import Precision
from export.artifact.manifest import read_manifest
from export.engines.protocol import Engine
from export.engines.selection import open_engine
from models.images.decode import Pixels

BATCHES, QUICK_BATCHES = (16, 64, 256), (1, 8)
_THREADS = {"cuda": 2, "cpu": 1}  # concurrent batches, as in the server
_SECONDS, _WARM_UP_S = 0.4, 0.2


@dataclass(frozen=True)
class Best:
    """The highest rate of an engine, in images per second, and the batch size that reaches it."""

    images_per_s: float
    batch: int


class EngineProcess:
    """A process that measures the TorchScript engine; the GPU memory that it takes is free when the block ends."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def __enter__(self) -> "EngineProcess":
        self._pool = ProcessPoolExecutor(1, get_context("spawn"))
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()

    def measure(self, artifact: Path, pixels: Pixels, precision: Precision) -> Best:
        """Tries several batch sizes.

        Args:
            artifact: the artifact directory.
            pixels: real images, uint8 (N, H, W, C), repeated where a batch has more.
            precision: the served precision.

        Raises:
            Exception: any exception that the engine raises.
        """
        batches = QUICK_BATCHES if self._options.quick else BATCHES
        job = self._pool.submit(_rates, artifact, pixels, precision, self._options.device, batches)
        rates = job.result()
        batch = max(rates, key=lambda size: rates[size])
        return Best(rates[batch], batch)


def _rates(
    artifact: Path, pixels: Pixels, precision: Precision, device: Literal["cuda", "cpu"], batches: Sequence[int]
) -> dict[int, float]:
    manifest = read_manifest(artifact)
    engine = open_engine(artifact, manifest, engine="torchscript", precision=precision, device=device)
    rates: dict[int, float] = {}
    for size in batches:
        batch = pixels[np.resize(np.arange(len(pixels)), size)]
        for _ in range(3 if device == "cuda" else 1):  # TorchScript profiles two runs and then compiles
            engine.run(batch)
        _rate(engine, batch, _THREADS[device], _WARM_UP_S)  # each stream takes memory of its own
        rates[size] = _rate(engine, batch, _THREADS[device], _SECONDS)
    return rates


def _rate(engine: Engine, batch: Pixels, threads: int, seconds: float) -> float:
    done, counts = threading.Event(), [itertools.count() for _ in range(threads)]

    def keep_running(count: "itertools.count[int]") -> None:
        while not done.is_set():
            engine.run(batch)
            next(count)

    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        running = [pool.submit(keep_running, count) for count in counts]
        done.wait(seconds)
        done.set()
        for one in running:
            one.result()
        elapsed = time.perf_counter() - began
    return len(batch) * sum(next(count) for count in counts) / elapsed
