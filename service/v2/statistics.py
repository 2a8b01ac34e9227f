"""What a model has done since its server started, as the statistics extension of the Open Inference Protocol has it.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

import math
import time
from collections.abc import Mapping
from typing import Any

from service.telemetry.counters import Definition, Labels, Tallies, Tally, Values

# Not for /metrics: one bucket for everything, so that a series is a sum and a count.
KEPT = Definition(
    "convscope_v2_statistics",
    "What the statistics extension tells.",
    ("model", "version", "what", "batch_size"),
    (math.inf,),
)
LAST = "convscope_v2_last_inference"  # seconds since 1970, by model and version


class Statistics:
    """Counts one model's requests and batches, wherever they come from; on one event loop, so without locks.

    Args:
        tallies: of `KEPT`.
        model: name and version.

    Attributes:
        last_s: when the last request ended, in seconds since 1970; 0 for never.
    """

    def __init__(self, tallies: Tallies, model: tuple[str, str]) -> None:
        self._tallies, self._model = tallies, model
        self._images, self._success, self._fail, self._queue, self._compute = (
            tallies.of(*model, what, "") for what in ("images", "success", "fail", "queue", "compute")
        )
        self._batches: dict[int, Tally] = {}
        self.last_s = 0.0

    def ran(self, images: int, seconds: float) -> None:
        """The engine ran a batch."""
        if (tally := self._batches.get(images)) is None:
            tally = self._batches[images] = self._tallies.of(*self._model, "batch", str(images))
        tally.observe(seconds)

    def answered(self, images: int, *, total_s: float, queue_s: float, compute_s: float) -> None:
        """A request was answered, `total_s` after it came; its batches took `compute_s`, shared with others."""
        self.last_s = time.time()
        self._images.observe(images)
        self._success.observe(total_s)
        self._queue.observe(queue_s)
        self._compute.observe(compute_s)

    def failed(self, total_s: float) -> None:
        """A request was refused by a full queue, given up by its client or deadline, or failed in the engine."""
        self.last_s = time.time()
        self._fail.observe(total_s)


def model_stat(name: str, version: int, counts: Values, last_s: float) -> dict[str, Any]:
    """The protocol's $model_stat; copies to and from a device are part of a run, and so of `compute_infer`.

    Args:
        name: of the model.
        version: of it.
        counts: of all workers.
        last_s: when the last request ended in any of them.
    """
    model = (name, str(version))
    series = {labels[2:]: values for labels, values in counts.get(KEPT.name, {}).items() if labels[:2] == model}
    inner = {what: _duration(series, (what, "")) for what in ("success", "fail", "queue", "compute")}
    copies, none = {"count": inner["success"]["count"], "ns": 0}, {"count": 0, "ns": 0}
    batches = {int(size): _duration(series, (what, size)) for what, size in series if what == "batch"}
    return {
        "name": name,
        "version": str(version),
        "last_inference": round(last_s * 1000),
        "inference_count": round(series[("images", "")][0]) if series else 0,
        "execution_count": sum(duration["count"] for duration in batches.values()),
        "inference_stats": {
            "success": inner["success"],
            "fail": inner["fail"],
            "queue": inner["queue"],
            "compute_input": copies,
            "compute_infer": inner["compute"],
            "compute_output": copies,
            "cache_hit": none,
            "cache_miss": none,
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": {"count": duration["count"], "ns": 0},
                "compute_infer": duration,
                "compute_output": {"count": duration["count"], "ns": 0},
            }
            for size, duration in sorted(batches.items())
        ],
    }


def _duration(series: Mapping[Labels, list[float]], what: Labels) -> dict[str, int]:
    """The protocol's $duration_stat, in nanoseconds."""
    seconds, count, _ = series.get(what, (0, 0, 0))
    return {"count": round(count), "ns": round(seconds * 1e9)}
