"""What no server of one machine exceeds: its engine alone and decoding alone, on the same cores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.decoding import decoding_rate
from export.artifact.formats import GraphFormat
from export.artifact.manifest import read_manifest
from export.verify.benchmark import benchmark
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
        threads: per inference; as many runs at a time as the cores have room for, each as fast as a single one.
        batches: the batch sizes to try.
        seconds: of each measurement.
    """
    spec, cores = read_manifest(artifact).input, available_cores()
    pixels = decode_image(image, spec)[np.newaxis]
    (row,) = benchmark(artifact, [form], pixels, batches=batches, threads=threads, seconds=seconds, device="cpu")
    if row.failed:
        raise SystemExit(f"{form.key} does not run here: {row.failed}")
    best = max(row.timings, key=lambda timing: timing.images_per_s)
    alone = best.images_per_s * max(1, cores // (threads or cores))
    return Bounds(alone, best.batch, decoding_rate([image], spec, cores=cores, seconds=seconds))
