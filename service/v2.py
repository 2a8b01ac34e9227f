"""The Open Inference Protocol, version 2: its routes, and what is known of the server and its models.

https://github.com/kserve/open-inference-protocol and, for what it calls extensions, Triton's docs/protocol.
"""

import asyncio
from concurrent.futures import Executor
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from models.inputs import FORMATS
from service.bodies import Bodies
from service.build import build_info
from service.catalog import Catalog, ServedModel
from service.errors import LoadingOff, ModelNotReady
from service.settings import Settings
from service.turns import Turns
from service.v2_infer import Infer
from service.v2_request import INPUT, SCORES, parse_object

EXTENSIONS = ("binary_tensor_data", "classification", "model_repository", "statistics")
PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "torchscript": "pytorch_libtorch"}  # Triton's words
_INDEX_LIMIT_BYTES = 1024


def v2_routes(catalog: Catalog, settings: Settings, bodies: Bodies, decoders: Executor, turns: Turns) -> list[Route]:
    """Every route under `/v2`, inference first: it is the one that must be found fast."""
    infer, about = Infer(catalog, settings, bodies, decoders, turns), About(catalog, bodies)
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
        *(Route(f"/v2/repository/models/{{name}}/{verb}", about.load, methods=["POST"]) for verb in ("load", "unload")),
    ]


class About:
    """Answers everything but inference."""

    def __init__(self, catalog: Catalog, bodies: Bodies) -> None:
        self._catalog = catalog
        self._bodies = bodies

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
        model = self._find(request)
        manifest, same = model.manifest, self._versions(request.path_params["name"])
        layers = ",".join(node.name for node in manifest.nodes if node.value) if model.taps else ""
        metadata = {
            "name": manifest.name,
            "versions": [str(other.manifest.version) for other in same],
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
        return JSONResponse({"name": self._find(request).manifest.name, "ready": True})

    async def statistics(self, request: Request) -> JSONResponse:
        """Of one version, of all of a model, or of everything; counted by the worker that answers."""
        if "version" in request.path_params:
            chosen = [self._find(request)]
        elif "name" in request.path_params:
            chosen = self._versions(request.path_params["name"])
        else:
            chosen = self._catalog.models()
        stats = [one.batcher.statistics.to_json(one.manifest.name, one.manifest.version) for one in chosen]
        return JSONResponse({"model_stats": stats})

    async def index(self, request: Request) -> JSONResponse:
        """Every artifact that was found, and why some are not served; `{"ready": true}` leaves those out."""
        async with self._bodies.body(request.scope, request.receive, limit_bytes=_INDEX_LIMIT_BYTES) as body:
            ready_only = parse_object(body).get("ready") is True if body else False
        entries = [
            {"name": m.manifest.name, "version": str(m.manifest.version), "state": "READY", "reason": ""}
            for m in self._catalog.models()
        ]
        if not ready_only:
            entries += [_failed(Path(path), reason) for path, reason in self._catalog.failures.items()]
        return JSONResponse(entries)

    async def load(self, request: Request) -> JSONResponse:
        """Loading and unloading are refused."""
        name = request.path_params["name"]
        raise LoadingOff(
            f"loading and unloading are off, so {name[:100]!r} stays as it is; what is served is set at start"
        )

    def _find(self, request: Request) -> ServedModel:
        return self._catalog.find(**request.path_params)

    def _versions(self, name: str) -> list[ServedModel]:
        found = self._catalog.find(name).manifest.name  # `name` may have a version in it
        return [model for model in self._catalog.models() if model.manifest.name == found]


def _failed(directory: Path, reason: str) -> dict[str, str]:
    """An artifact lies in `<name>/<version>`; anything else that failed is a folder of them."""
    named = directory.name.isdecimal()
    return {
        "name": directory.parent.name if named else directory.name,
        "version": directory.name if named else "",
        "state": "UNAVAILABLE",
        "reason": reason,
    }
