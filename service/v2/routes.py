"""The Open Inference Protocol, version 2: its routes, and what is known of the server and its models.

https://github.com/kserve/open-inference-protocol and, for what it calls extensions, Triton's docs/protocol.
"""

import asyncio
from concurrent.futures import Executor
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from models.images.decode import FORMATS
from service.errors import MalformedBody, ModelNotReady, UnknownParameter
from service.http.bodies import BodyReader
from service.inspection.queue import InspectionQueue
from service.serving.catalog import Catalog
from service.serving.repository import ModelRepository
from service.serving.served_model import ModelEntry
from service.serving.worker_metrics import MetricsRoute
from service.settings import Limit, Settings
from service.telemetry.build_info import build_info
from service.telemetry.counters import Values, add_values
from service.telemetry.statistics import LAST
from service.v2.infer import Infer
from service.v2.request import INPUT, SCORES, parse_object
from service.v2.statistics import model_stat

EXTENSIONS = ("binary_tensor_data", "classification", "model_repository", "statistics")
PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "torchscript": "pytorch_libtorch"}  # Triton's words
SMALL_LIMIT_BYTES = 1024


def v2_routes(
    catalog: Catalog,
    repository: ModelRepository,
    metrics: MetricsRoute,
    settings: Settings,
    body_reader: BodyReader,
    decoders: Executor,
    inspection_queue: InspectionQueue,
) -> list[Route]:
    """Every route under `/v2`, inference first: it is the one that must be found fast."""
    infer, about = (
        Infer(catalog, settings, body_reader, decoders, inspection_queue),
        About(catalog, metrics, body_reader, deadline_s=settings.deadline_s),
    )
    change = Changes(repository, body_reader, deadline_s=settings.deadline_s)
    model, versioned = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
    return [
        Route(f"{model}/infer", infer, methods=["POST"]),
        Route(f"{versioned}/infer", infer, methods=["POST"]),
        Route("/v2", about.server),
        Route("/v2/health/live", about.live),
        Route("/v2/health/ready", about.ready),
        Route("/v2/models/stats", about.statistics),
        *(Route(path, about.model) for path in (model, versioned)),
        *(Route(f"{path}/ready", about.model_ready) for path in (model, versioned)),
        *(Route(f"{path}/stats", about.statistics) for path in (model, versioned)),
        Route("/v2/repository/index", about.index, methods=["POST"]),
        Route("/v2/repository/models/{name}/load", change.load, methods=["POST"]),
        Route("/v2/repository/models/{name}/unload", change.unload, methods=["POST"]),
    ]


class About:
    """Answers everything but inference."""

    def __init__(self, catalog: Catalog, metrics: MetricsRoute, body_reader: BodyReader, *, deadline_s: float) -> None:
        self._catalog = catalog
        self._deadline_s = deadline_s
        self._metrics = metrics
        self._bodies = body_reader

    async def server(self, request: Request) -> JSONResponse:
        """The server's name, version (empty in a Bento, which has no record of it) and extensions."""
        build = await asyncio.to_thread(build_info)
        return JSONResponse({"name": "convscope", "version": build["version"], "extensions": EXTENSIONS})

    async def live(self, request: Request) -> JSONResponse:
        """Answers, and so is alive."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> JSONResponse:
        """Whether every artifact is served, as `/readyz` has it."""
        if reason := self._catalog.not_ready:
            raise ModelNotReady(reason)
        return JSONResponse({"ready": True})

    async def model(self, request: Request) -> JSONResponse:
        """What a model takes and gives. Layers are outputs only where they are asked for, so they are a parameter."""
        model = await self._catalog.find(**request.path_params)
        manifest, same = model.manifest, self._versions(request.path_params["name"])
        layers = ",".join(node.name for node in manifest.nodes if node.value) if model.taps else ""
        metadata = {
            "name": manifest.name,
            "versions": [str(entry.manifest.version) for entry in same],
            "platform": PLATFORMS[model.engine.name],
            "inputs": [
                {
                    "name": INPUT,
                    "datatype": "UINT8",
                    "shape": [-1, *manifest.input.shape],
                    "parameters": {"or_datatype": "BYTES", "or_shape": "[-1]", "or_content": ", ".join(FORMATS)},
                }
            ],
            "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, len(manifest.classes)]} for name in SCORES],
            "parameters": {"layers": layers},
        }
        return JSONResponse(metadata)

    async def model_ready(self, request: Request) -> JSONResponse:
        """200 for what is served; anything else is unknown."""
        return JSONResponse({"name": self._catalog.entry(**request.path_params).manifest.name, "ready": True})

    async def statistics(self, request: Request) -> JSONResponse:
        """Of one version, of all of a model, or of everything, since the server started; of all workers."""
        if "version" in request.path_params:
            chosen = [self._catalog.entry(**request.path_params)]
        elif "name" in request.path_params:
            chosen = self._versions(request.path_params["name"])
        else:
            chosen = self._catalog.entries()
        snapshots, counts = await self._metrics.snapshots(), Values()
        for snapshot in snapshots:
            add_values(counts, snapshot.counts)
        stats = []
        for entry in chosen:
            last_s = max(one.gauges.get(LAST, {}).get(entry.metrics.labels, [0])[0] for one in snapshots)
            stats.append(model_stat(entry.manifest.name, entry.manifest.version, counts, last_s))
        return JSONResponse({"model_stats": stats})

    async def index(self, request: Request) -> JSONResponse:
        """Every artifact that was found, and why some are not served; `{"ready": true}` leaves those out."""
        small = Limit(SMALL_LIMIT_BYTES)
        async with (
            asyncio.timeout(self._deadline_s),
            self._bodies.body(request.scope, request.receive, limit_bytes=small) as body,
        ):
            asked = parse_object(body) if body else {}
        if unknown := sorted(asked.keys() - {"ready"}):
            raise MalformedBody(f"there is no key {unknown[0][:40]!r}; known is ready")
        ready_only = asked.get("ready", False)
        if not isinstance(ready_only, bool):
            raise MalformedBody(f"ready must be true or false, got {type(ready_only).__name__}")
        entries = [
            {"name": e.manifest.name, "version": str(e.manifest.version), "state": "READY", "reason": ""}
            for e in self._catalog.entries()
        ]
        if not ready_only:
            entries += [
                {"name": name, "version": "", "state": "UNAVAILABLE", "reason": "unloaded"}
                for name in sorted(self._catalog.unloaded)
            ]
            entries += [_failed(Path(path), reason) for path, reason in self._catalog.failures.items()]
        return JSONResponse(entries)

    def _versions(self, name: str) -> list[ModelEntry]:
        found = self._catalog.entry(name).manifest.name  # `name` may have a version in it
        return [entry for entry in self._catalog.entries() if entry.manifest.name == found]


class Changes:
    """Loads and unloads models, where that is allowed."""

    def __init__(self, repository: ModelRepository, body_reader: BodyReader, *, deadline_s: float) -> None:
        self._repository = repository
        self._bodies = body_reader
        self._deadline_s = deadline_s

    async def load(self, request: Request) -> JSONResponse:
        """Serves a model again, and what is new of it; answered when every worker does."""
        async with asyncio.timeout(self._deadline_s):
            await self._check(request, ())
            await self._repository.load(request.path_params["name"])
        return JSONResponse({})

    async def unload(self, request: Request) -> JSONResponse:
        """Lets go of every version of a model; answered when every worker has."""
        async with asyncio.timeout(self._deadline_s):
            await self._check(request, ("unload_dependents",))  # what Triton's client sends; there are none here
            await self._repository.unload(request.path_params["name"])
        return JSONResponse({})

    async def _check(self, request: Request, known: tuple[str, ...]) -> None:
        self._repository.check_allowed(request.path_params["name"])
        async with self._bodies.body(request.scope, request.receive, limit_bytes=Limit(SMALL_LIMIT_BYTES)) as body:
            parameters = parse_object(body).get("parameters", {}) if body else {}
        if not isinstance(parameters, dict) or (unknown := sorted(set(parameters) - set(known))):
            what = repr(unknown[0][:40]) if isinstance(parameters, dict) else "that is no object"
            raise UnknownParameter(f"there is no parameter {what}; a model is loaded as its manifest says")


def _failed(directory: Path, reason: str) -> dict[str, str]:
    """An artifact lies in `<name>/<version>`; anything else that failed is a folder of them."""
    named = directory.name.isdecimal()
    return {
        "name": directory.parent.name if named else directory.name,
        "version": directory.name if named else "",
        "state": "UNAVAILABLE",
        "reason": reason,
    }
