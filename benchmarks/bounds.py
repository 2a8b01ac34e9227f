"""What no server of one machine exceeds: its engine alone and decoding alone, on the same cores."""

import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.decoding import decoding_rate
from export.artifact.formats import GraphFormat
from export.artifact.manifest import read_manifest
from export.engines.selection import open_engine
from models.cores import available_cores
from models.images.decode import decode_image


@dataclass(frozen=True)
class Bounds:
    """Images per second of the engine alone, at its best batch size, and of decoding alone on all cores."""

    engine: float
    batch: int
    decoding: float

    @property
    def together(self) -> float:
        """Images per second of a server that loses no time besides: both need the same cores."""
        return 1 / (1 / self.engine + 1 / self.decoding)


def bounds(
    artifact: Path, form: GraphFormat, image: bytes, *, threads: int, batches: Sequence[int], seconds: float
) -> Bounds:
    """Measures both, each in processes of its own.

    Args:
        artifact: the artifact directory.
        form: the way to run it.
        image: an encoded image.
        threads: per inference; as many runs at a time as the cores have room for.
        batches: the batch sizes to try.
        seconds: of each measurement.
    """
    spec, cores = read_manifest(artifact).input, available_cores()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        rates = pool.submit(_engine_rates, artifact, form, image, threads, tuple(batches), seconds).result()
    batch = max(rates, key=lambda size: rates[size])
    alone = rates[batch] * max(1, cores // threads)
    return Bounds(alone, batch, decoding_rate([image], spec, cores=cores, seconds=seconds))


def _engine_rates(
    artifact: Path, form: GraphFormat, image: bytes, threads: int, batches: tuple[int, ...], seconds: float
) -> dict[int, float]:
    manifest = read_manifest(artifact)
    engine = open_engine(
        artifact, manifest, engine=form.engine, precision=form.precision, device="cpu", threads=threads
    )
    pixels = decode_image(image, manifest.input)
    rates: dict[int, float] = {}
    for size in batches:
        images = np.repeat(pixels[np.newaxis], size, axis=0)
        engine.run(images)
        count, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds:
            engine.run(images)
            count += size
        rates[size] = count / elapsed
    return rates
