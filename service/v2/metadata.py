"""GET routes under /v2 that describe the server and its models, except statistics.

https://github.com/kserve/open-inference-protocol and, for its extensions, Triton's docs/protocol.
"""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse

from models.images.header import FORMATS
from service.context import ServerContext
from service.errors import ModelNotReady
from service.http.route import Route
from service.openapi.schema import TEXT, Component, array, as_json, described, object_schema, one_of
from service.telemetry.build_info import build_info
from service.v2.paths import PER_MODEL
from service.v2.request import INPUT, SCORES

EXTENSIONS = ("binary_tensor_data", "classification", "model_repository", "statistics")
PLATFORMS = {  # Triton's names
    "onnxruntime": "onnxruntime_onnx",
    "openvino": "openvino",
    "openvino-bf16": "openvino",
    "torchscript": "pytorch_libtorch",
}


class MetadataRoutes:
    """Answers from the catalog; nothing is computed."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def server(self, request: Request) -> JSONResponse:
        """The server and its extensions; the version is empty in a Bento, which has no installation metadata."""
        build = await asyncio.to_thread(build_info)
        return JSONResponse({"name": "convscope", "version": build["version"], "extensions": EXTENSIONS})

    async def live(self, request: Request) -> JSONResponse:
        """Liveness: 200 while the server runs."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> JSONResponse:
        """Readiness: 200 once every artifact is served, as at `/readyz`."""
        if reason := self._context.catalog.not_ready:
            raise ModelNotReady(reason)
        return JSONResponse({"ready": True})

    async def model(self, request: Request) -> JSONResponse:
        """Inputs and outputs of a model.

        Layers are outputs only on request, so they are listed in a parameter.
        """
        model = await self._context.find(**request.path_params)
        manifest, same = model.manifest, self._context.versions(request.path_params["name"])
        layers = ",".join(node.name for node in manifest.nodes if node.value) if model.predictor.extractor else ""
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
        """Readiness of a model: 200 while it is served."""
        return JSONResponse({"name": self._context.entry(**request.path_params).manifest.name, "ready": True})


_SHAPE = array({"description": "-1 is any number", "type": "integer", "minimum": -1})
_TENSOR = {"name": TEXT, "datatype": TEXT, "shape": _SHAPE}
_INPUT = object_schema(**_TENSOR, parameters=object_schema(or_datatype=TEXT, or_shape=TEXT, or_content=TEXT))
_LAYERS = described("the names of all layers, with commas between them", TEXT)
SERVER = Component("V2Server", object_schema(name=TEXT, version=TEXT, extensions=array(one_of(*EXTENSIONS))))
MODEL = Component(
    "V2Model",
    object_schema(
        name=TEXT,
        versions=array(TEXT, minItems=1),
        platform=one_of(*dict.fromkeys(PLATFORMS.values())),
        inputs=array(_INPUT, minItems=1, maxItems=1),
        outputs=array(object_schema(**_TENSOR), minItems=2, maxItems=2),
        parameters=object_schema(layers=_LAYERS),
    ),
)
MODEL_READY = Component("V2ModelReady", object_schema(name=TEXT, ready={"const": True}))


def routes(context: ServerContext) -> list[Route]:
    """The routes."""
    metadata = MetadataRoutes(context)
    live, ready = (as_json(object_schema(**{word: {"const": True}})) for word in ("live", "ready"))
    found = [
        Route(
            "GET",
            "/v2",
            metadata.server,
            as_json(SERVER),
            summary="The server and its extensions",
            operation_id="v2_get_server",
        ),
        Route("GET", "/v2/health/live", metadata.live, live, public=True, operation_id="v2_is_live"),
        Route(
            "GET",
            "/v2/health/ready",
            metadata.ready,
            ready,
            (ModelNotReady,),
            public=True,
            operation_id="v2_is_ready",
        ),
    ]
    for path, parameters, errors, suffix in PER_MODEL:
        found += [
            Route(
                "GET",
                path,
                metadata.model,
                as_json(MODEL),
                errors,
                parameters,
                operation_id=f"v2_get_model{suffix}",
            ),
            Route(
                "GET",
                f"{path}/ready",
                metadata.model_ready,
                as_json(MODEL_READY),
                errors,
                parameters,
                operation_id=f"v2_is_model_ready{suffix}",
            ),
        ]
    return found
