"""Decoding alone, on all cores: the rate that bounds a server whose clients send image files."""

import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from threading import Barrier

from models.images.decode import decode_image
from models.images.input_spec import InputSpec

_START_S = 60.0

_barrier: Barrier  # in a process of the pool


def decoding_rate(files: Sequence[bytes], spec: InputSpec, *, cores: int, seconds: float = 1.0) -> float:
    """Images per second that `cores` processes together decode and resize to `spec`."""
    context = get_context("spawn")
    with ProcessPoolExecutor(cores, context, _set_barrier, (context.Barrier(cores),)) as pool:
        jobs = [pool.submit(_decode, list(files), spec, seconds) for _ in range(cores)]
        return sum(job.result() for job in jobs)


def _set_barrier(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _decode(files: list[bytes], spec: InputSpec, seconds: float) -> float:
    decode_image(files[0], spec)  # the first call prepares
    _barrier.wait(_START_S)
    count, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        decode_image(files[count % len(files)], spec)
        count += 1
    return count / elapsed
