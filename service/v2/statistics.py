"""What a model has done since its server started, as the statistics extension of the Open Inference Protocol has it.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

from collections.abc import Mapping
from typing import Any

from service.telemetry.counters import Labels, Values
from service.telemetry.statistics import KEPT


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
