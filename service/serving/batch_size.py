"""Selects the maximum batch size of a model.

An engine alone may reach the same images per second at batch 4 as at 64, but a server gains from larger batches: they
leave it time to decode the next images. Yet a batch delays every request that arrives while it runs.
"""

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

from export.engines.protocol import DeviceMemoryFull, Run

LARGEST = {"cpu": 64, "cuda": 256}  # export compares batches of up to 256 with the trained network
INLINE_LIMIT_S = 2e-3  # shorter batches run on the event loop: switching to a thread would cost each request more
_WARM_UP = {"cpu": 0, "cuda": 3}  # runs of each size before timing: an engine records CUDA graphs in the first
_ENOUGH = 16  # images: ResNet-18 gains nothing from more, which only take memory
_LONGEST_S = 0.5  # for a batch of up to `_ENOUGH`
_LONGEST_LARGER_S = 0.15
_AS_FAST = 0.9  # share of the best rate


@dataclass(frozen=True)
class BatchSize:
    """Maximum number of images per batch, and the seconds that such a batch takes."""

    images: int
    seconds: float

    @property
    def inline(self) -> bool:
        """True if batches run on the event loop."""
        return self.seconds <= INLINE_LIMIT_S


def measure_batch_size(
    run: Run, shape: tuple[int, ...], *, device: Literal["cpu", "cuda"] = "cpu", fixed: int = 0
) -> BatchSize:
    """Times batches of 1, 2, 4 and so on, up to 64 images on the CPU and 256 on a GPU.

    Args:
        run: the engine.
        shape: (H, W, C) of an image.
        device: where the engine runs.
        fixed: the size set by the operator, which alone is timed; 0 for none.

    Returns:
        The largest size that reaches at least 90 % of the best rate and takes at most half a second, or 0.15 s for more
        than 16 images; 1 if none does. Sizes expected to take longer are not tried, nor any above one that exceeds the
        GPU's memory.

    Raises:
        DeviceMemoryFull: the memory does not hold one image, or `fixed`.
    """
    warm_up = _WARM_UP[device]
    if fixed:
        return BatchSize(fixed, _seconds(run, shape, fixed, warm_up=warm_up))
    times: dict[int, float] = {}
    for size in (2**power for power in range(LARGEST[device].bit_length())):
        try:
            times[size] = _seconds(run, shape, size, warm_up=warm_up)
        except DeviceMemoryFull:
            if not times:
                raise
            break
        if 2 * times[size] > (_LONGEST_S if 2 * size <= _ENOUGH else _LONGEST_LARGER_S):
            break
    best = max(size / seconds for size, seconds in times.items())
    chosen = max(size for size, seconds in times.items() if size / seconds >= _AS_FAST * best)
    return BatchSize(chosen, times[chosen])


def _seconds(run: Run, shape: tuple[int, ...], size: int, *, warm_up: int) -> float:
    """The fastest of up to four runs, as the first of a size is slower; of two for long runs."""
    images = np.zeros((size, *shape), np.uint8)
    for _ in range(warm_up):
        run(images)
    runs: list[float] = []
    while len(runs) < 2 or (len(runs) < 4 and sum(runs) < 0.05):
        started = time.perf_counter()
        run(images)
        runs.append(time.perf_counter() - started)
    return min(runs)
