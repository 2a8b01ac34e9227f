"""Compares the speed of exported files."""

import statistics
import time
from collections.abc import Mapping

import numpy as np

from export.engines.protocol import Run
from models.images.decode import Pixels

BATCHES = (1, 32)
_ROUNDS = 3
_LEAST_RUNS = 3


def measure_speed(runs: Mapping[str, Run], images: Pixels, *, seconds: float = 0.1) -> dict[str, dict[str, float]]:
    """Images per second of each of `runs`, by batch size, on `images` uint8 (N, H, W, C), repeated to fill a batch.

    They take turns, so that other load on the machine affects all of them equally; the result of a round is the median
    of its runs, and the best round counts.

    Args:
        seconds: per round of at least three runs.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in runs}
    for size in BATCHES:
        batch = images[np.resize(np.arange(len(images)), size)]
        for _ in range(_ROUNDS):
            for name, run in runs.items():
                rate = size / statistics.median(run_times(run, batch, seconds=seconds, warm_up=1, least=_LEAST_RUNS))
                found[name][str(size)] = max(found[name].get(str(size), 0.0), rate)
    return {name: {size: round(rate, 1) for size, rate in rates.items()} for name, rates in found.items()}


def run_times(run: Run, batch: Pixels, *, seconds: float, warm_up: int, least: int) -> list[float]:
    """Seconds of each run: for `seconds` and `least` runs at the minimum, after `warm_up` uncounted runs."""
    for _ in range(warm_up):  # the first run of a size is slower
        run(batch)
    times: list[float] = []
    while sum(times) < seconds or len(times) < least:
        began = time.perf_counter()
        run(batch)
        times.append(time.perf_counter() - began)
    return times
