"""What one model has done since its worker started, as the statistics extension of the Open Inference Protocol has it.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

import time
from dataclasses import dataclass
from typing import Any


@dataclass
class Duration:
    """How often something was done, and how long it took together."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Counts one more."""
        self.count += 1
        self.seconds += seconds

    def to_json(self) -> dict[str, int]:
        """The protocol's $duration_stat, in nanoseconds."""
        return {"count": self.count, "ns": round(self.seconds * 1e9)}


class Statistics:
    """Counts one model's requests and batches, wherever they come from; on one event loop, so without locks."""

    def __init__(self) -> None:
        self._images = 0
        self._last_s = 0.0
        self._success, self._fail, self._queue, self._compute = Duration(), Duration(), Duration(), Duration()
        self._batches: dict[int, Duration] = {}

    def ran(self, images: int, seconds: float) -> None:
        """The engine ran a batch."""
        if (duration := self._batches.get(images)) is None:
            duration = self._batches[images] = Duration()
        duration.add(seconds)

    def answered(self, images: int, *, total_s: float, queue_s: float, compute_s: float) -> None:
        """A request was answered, `total_s` after it came; its batches took `compute_s`, shared with others."""
        self._images += images
        self._last_s = time.time()
        self._success.add(total_s)
        self._queue.add(queue_s)
        self._compute.add(compute_s)

    def failed(self, total_s: float) -> None:
        """A request was refused by a full queue, given up by its client or deadline, or failed in the engine."""
        self._last_s = time.time()
        self._fail.add(total_s)

    def to_json(self, name: str, version: int) -> dict[str, Any]:
        """The protocol's $model_stat; copies to and from a device are part of a run, and so of `compute_infer`."""
        copies, none = Duration(self._success.count).to_json(), Duration().to_json()
        return {
            "name": name,
            "version": str(version),
            "last_inference": round(self._last_s * 1000),
            "inference_count": self._images,
            "execution_count": sum(duration.count for duration in self._batches.values()),
            "inference_stats": {
                "success": self._success.to_json(),
                "fail": self._fail.to_json(),
                "queue": self._queue.to_json(),
                "compute_input": copies,
                "compute_infer": self._compute.to_json(),
                "compute_output": copies,
                "cache_hit": none,
                "cache_miss": none,
            },
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": Duration(duration.count).to_json(),
                    "compute_infer": duration.to_json(),
                    "compute_output": Duration(duration.count).to_json(),
                }
                for size, duration in sorted(self._batches.items())
            ],
        }
