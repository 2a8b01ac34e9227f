"""Counts for the statistics extension of the Open Inference Protocol."""

import math
import time

from service.telemetry.counters import Definition, MetricSeries, Series

# Not for /metrics: a single bucket, so that a series is a sum and a count.
KEPT = Definition(
    "convscope_v2_statistics",
    "Data of the statistics extension.",
    ("model", "version", "what", "batch_size"),
    (math.inf,),
)


LAST = "convscope_v2_last_inference"  # seconds since 1970, by model and version


class Statistics:
    """Counts one model's requests and batches from all routes; on one event loop, so without locks.

    Args:
        tallies: of `KEPT`.
        model: name and version.

    Attributes:
        last_s: when the last request ended, in seconds since 1970; 0 for never.
    """

    def __init__(self, tallies: MetricSeries, model: tuple[str, str]) -> None:
        self._tallies, self._model = tallies, model
        self._images, self._success, self._fail, self._queue, self._compute = (
            tallies.of(*model, what, "") for what in ("images", "success", "fail", "queue", "compute")
        )
        self._batches: dict[int, Series] = {}
        self.last_s = 0.0

    def ran(self, images: int, seconds: float) -> None:
        """Counts a batch."""
        if (tally := self._batches.get(images)) is None:
            tally = self._batches[images] = self._tallies.of(*self._model, "batch", str(images))
        tally.observe(seconds)

    def answered(self, images: int, *, total_s: float, queue_s: float, compute_s: float) -> None:
        """Counts a request answered after `total_s`; its batches took `compute_s`, shared with other requests."""
        self.last_s = time.time()
        self._images.observe(images)
        self._success.observe(total_s)
        self._queue.observe(queue_s)
        self._compute.observe(compute_s)

    def failed(self, total_s: float) -> None:
        """Counts a request refused by a full queue, abandoned by its client or deadline, or failed in the engine."""
        self.last_s = time.time()
        self._fail.observe(total_s)
