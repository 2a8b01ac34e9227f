"""GET /v2/models/stats and a model's /stats: counts since the server started, in the statistics extension's format.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from service.context import ServerContext
from service.http.route import Json, Route
from service.openapi.schema import COUNT, TEXT, Component, array, as_json, described, object_schema
from service.telemetry.counters import Labels, Values, add_values
from service.telemetry.statistics import KEPT, LAST
from service.v2.paths import PER_MODEL

_SPENT = ("compute_input", "compute_infer", "compute_output")
_KINDS = ("success", "fail", "queue", *_SPENT, "cache_hit", "cache_miss")
_DURATION = Component("V2Duration", object_schema(count=COUNT, ns=COUNT))
_MODEL_STAT: Json = object_schema(
    name=TEXT,
    version=TEXT,
    last_inference=described("milliseconds since 1970", COUNT),
    inference_count=described("images", COUNT),
    execution_count=described("batches", COUNT),
    inference_stats=object_schema(**dict.fromkeys(_KINDS, _DURATION)),
    batch_stats=array(object_schema(batch_size=COUNT, **dict.fromkeys(_SPENT, _DURATION))),
)
STATISTICS = Component("V2Statistics", object_schema(model_stats=array(_MODEL_STAT)))


def routes(context: ServerContext) -> list[Route]:
    """The routes."""

    async def statistics(request: Request) -> JSONResponse:
        """Statistics of one version, of one model, or of all models; over all workers, since the server started."""
        if "version" in request.path_params:
            chosen = [context.entry(**request.path_params)]
        elif "name" in request.path_params:
            chosen = context.versions(request.path_params["name"])
        else:
            chosen = context.catalog.entries()
        snapshots, counts = await context.metrics.snapshots(), Values()
        for snapshot in snapshots:
            add_values(counts, snapshot.counts)
        stats = []
        for entry in chosen:
            last_s = max(one.gauges.get(LAST, {}).get(entry.metrics.labels, [0])[0] for one in snapshots)
            stats.append(model_stat(entry.manifest.name, entry.manifest.version, counts, last_s))
        return JSONResponse({"model_stats": stats})

    of_one = [
        Route(
            "GET",
            f"{path}/stats",
            statistics,
            as_json(STATISTICS),
            errors,
            parameters,
            summary="Statistics of a model",
            operation_id=f"v2_get_model_statistics{suffix}",
        )
        for path, parameters, errors, suffix in PER_MODEL
    ]
    return [
        Route(
            "GET",
            "/v2/models/stats",
            statistics,
            as_json(STATISTICS),
            summary="Statistics of everything",
            operation_id="v2_get_statistics",
        ),
        *of_one,
    ]


def model_stat(name: str, version: int, counts: Values, last_s: float) -> dict[str, Any]:
    """The protocol's $model_stat; copies to and from a device are part of `compute_infer`.

    Args:
        name: the model's name.
        version: its version.
        counts: counts of all workers.
        last_s: end of the last request in any worker.
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
