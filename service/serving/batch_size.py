"""How many images run together at most.

An engine alone may make as many images a second from 4 at a time as from 64, but a server makes more with larger
batches: they leave it time to decode what comes next. Yet a batch delays everybody who comes while it is run.
"""

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

from export.engines.protocol import DeviceMemoryFull, Run

LARGEST = {"cpu": 64, "cuda": 256}  # export compares batches of up to 256 with the trained network
INLINE_LIMIT_S = 2e-3  # a batch that takes less is run on the event loop: a hop to a thread costs each request more
_WARM_UP = {"cpu": 0, "cuda": 3}  # runs of each size before it is timed: an engine records CUDA graphs in the first
_LONGEST_S = 0.5  # of one run
_AS_FAST = 0.9  # of the best rate


@dataclass(frozen=True)
class BatchSize:
    """Images run together at most, and the seconds that so many take."""

    images: int
    seconds: float

    @property
    def inline(self) -> bool:
        """Whether batches are run on the event loop."""
        return self.seconds <= INLINE_LIMIT_S


def measure_batch_size(
    run: Run, shape: tuple[int, ...], *, device: Literal["cpu", "cuda"] = "cpu", fixed: int = 0
) -> BatchSize:
    """Times batches of 1, 2, 4 and so on, to 64 images on the CPU and 256 on a GPU.

    Args:
        run: the engine.
        shape: (H, W, C) of an image.
        device: where the engine runs.
        fixed: the size that an operator wants; nothing else is timed then. 0 for none.

    Returns:
        The largest size that takes at most half a second and makes at least 90 % of the most images a second; 1 where
        none does. Sizes that can be expected to take longer are not tried, nor any above one that the GPU's memory
        does not hold.

    Raises:
        DeviceMemoryFull: it does not hold one image, or `fixed`.
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
        if 2 * times[size] > _LONGEST_S:
            break
    best = max(size / seconds for size, seconds in times.items())
    chosen = max(size for size, seconds in times.items() if size / seconds >= _AS_FAST * best)
    return BatchSize(chosen, times[chosen])


def _seconds(run: Run, shape: tuple[int, ...], size: int, *, warm_up: int) -> float:
    """The fastest of up to four runs, of which the first of a size is slower; two of those that take long."""
    images = np.zeros((size, *shape), np.uint8)
    for _ in range(warm_up):
        run(images)
    runs: list[float] = []
    while len(runs) < 2 or (len(runs) < 4 and sum(runs) < 0.05):
        started = time.perf_counter()
        run(images)
        runs.append(time.perf_counter() - started)
    return min(runs)
