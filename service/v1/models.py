"""GET /v1/models and the metadata of each model: versions, labels, the graph."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from export.artifact.manifest import ONNX_FILE
from models.graph.layout import center, layout
from service.context import ServerContext
from service.errors import MethodNotAllowed
from service.http.caching import etag_of, not_modified
from service.http.responses import json_response
from service.http.route import LOOKUP, Json, Route
from service.openapi.schema import (
    COUNT,
    FLAG,
    FROM_1,
    NUMBER,
    TEXT,
    Component,
    array,
    as_json,
    described,
    model_parameter,
    nullable,
    object_schema,
    one_of,
)
from service.serving.served_model import ModelEntry


class ModelRoutes:
    """Answers from the manifests; nothing is computed."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def models(self, request: Request) -> Response:
        """Every model that is served, and every artifact that is not."""
        catalog = self._context.catalog
        failures = [{"artifact": path, "reason": reason} for path, reason in catalog.failures.items()]
        return json_response({"models": [_described(entry) for entry in catalog.entries()], "failed": failures})

    async def model(self, request: Request) -> Response:
        """One model and its versions."""
        if request.path_params["model"].endswith(_PREDICT):  # a router takes any text for a name
            raise MethodNotAllowed(f"{request.url.path} takes POST, not {request.method}", allow="POST")
        found = self._find(request)
        versions = [entry.manifest.version for entry in self._context.versions(found.manifest.name)]
        return json_response({**_described(found), "versions": versions, **protocol_status(versions)})

    async def labels(self, request: Request) -> Response:
        """The names of a model's classes, by index."""
        return json_response({"labels": self._find(request).manifest.classes})

    async def graph(self, request: Request) -> Response:
        """Every layer of a model: shape, parents, parameters, receptive field."""
        manifest = self._find(request).manifest
        etag = etag_of(manifest.name, manifest.version, [file.sha256 for file in manifest.files.values()])
        if unchanged := not_modified(request, etag):
            return unchanged
        answer = json_response(
            {
                "model": manifest.name,
                "version": manifest.version,
                "network": manifest.model,
                **manifest.input.to_json(),
                "nodes": [
                    {**asdict(node), **asdict(place), "center": center(node)}
                    for node, place in zip(manifest.nodes, layout(manifest.nodes), strict=True)
                ],
            }
        )
        answer.headers["etag"] = etag
        return answer

    def _find(self, request: Request) -> ModelEntry:
        return self._context.entry(request.path_params["model"])


def protocol_status(versions: Sequence[int]) -> dict[str, Any]:
    """The members that KServe's V1 protocol and TensorFlow Serving's model status have; only what serves is found."""
    available = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    return {"ready": True, "model_version_status": [{"version": str(version), **available} for version in versions]}


def _described(entry: ModelEntry) -> dict[str, Any]:
    """The metadata of a version; values of its engine are null while it is not in memory."""
    manifest, model = entry.manifest, entry.model
    return {
        "name": manifest.name,
        "version": manifest.version,
        "network": manifest.model,
        "classes": len(manifest.classes),
        **manifest.input.to_json(),
        "file": model.engine.file if model else None,
        "engine": model.engine.name if model else None,
        "device": model.engine.device if model else None,
        "max_batch_size": entry.batch_size.images if entry.batch_size else None,
        "inspectable": ONNX_FILE in manifest.files,
        "metrics": manifest.metrics,
        "dataset": manifest.dataset.get("name"),
        "temperature": manifest.temperature,
        "scores": "independent" if manifest.independent_scores else "exclusive",
        "golden_difference": model.golden_difference if model else None,
    }


_PREDICT = ":predict"
_WHOLE: Json = {"type": "integer"}
_PAIR = array(_WHOLE, minItems=2, maxItems=2)
INPUT = Component("Input", object_schema(mode=one_of("L", "RGB"), height=FROM_1, width=FROM_1))
PREPROCESS = Component(
    "Preprocess",
    object_schema(
        resize={"description": "height and width, or the shorter side", "oneOf": [_PAIR, FROM_1]},
        crop=nullable(_PAIR),
        interpolation=TEXT,
        antialias=FLAG,
        background=described("value behind transparent pixels, by channel", array(COUNT)),
        mean=array(NUMBER),
        std=array(NUMBER),
    ),
)
NODE = Component(
    "Node",  # models.graph.node.Node
    object_schema(
        name=described("as torchvision's get_graph_node_names has it", TEXT),
        op=TEXT,
        parents=array(TEXT),
        shape=described("for one image", array(COUNT)),
        value=described("its name in the ONNX file; empty if absent", TEXT),
        kernel=nullable(_PAIR),
        stride=nullable(_PAIR),
        padding=nullable(_PAIR),
        dilation=nullable(_PAIR),
        parameters=COUNT,
        macs=described("multiply-accumulate operations for one image", COUNT),
        receptive_field=described("in input pixels; null if it is the whole image or unknown", nullable(_PAIR)),
        jump=described("input pixels between neighbouring positions; null likewise", nullable(_PAIR)),
        start=described("input pixel where the first position's field begins; null likewise", nullable(_PAIR)),
        center=described("middle of the first position's field, (row, column); null likewise", nullable(array(NUMBER))),
        row=described("where to draw it: length of the longest path from the input", FROM_1),
        lane=described("0 for the trunk, 1 and so on for branches", COUNT),
        module=described("path of its module, for folding; empty at the top", TEXT),
    ),
)
_MODEL: dict[str, Json] = {
    "name": TEXT,
    "version": FROM_1,
    "network": TEXT,
    "classes": described("number of classes", FROM_1),
    "input": INPUT,
    "preprocess": PREPROCESS,
    "file": described("the serving file; null while the model is not in memory", nullable(TEXT)),
    "engine": nullable(one_of("onnxruntime", "openvino", "openvino-bf16", "torchscript")),
    "device": nullable(one_of("cpu", "cuda")),
    "max_batch_size": described("maximum batch size, once measured", nullable(FROM_1)),
    "inspectable": FLAG,
    "metrics": {"description": "of the training, by split", "type": "object"},
    "dataset": nullable(TEXT),
    "temperature": described("by which the logits are divided before the softmax", {**NUMBER, "exclusiveMinimum": 0}),
    "scores": described(
        "exclusive: probabilities sum to 1; independent: several classes may apply, or none",
        one_of("exclusive", "independent"),
    ),
    "golden_difference": described("largest difference to the golden probabilities", nullable(NUMBER)),
}
MODEL = Component("Model", object_schema(**_MODEL))
MODEL_VERSIONS = Component(
    "ModelVersions",
    object_schema(
        **_MODEL,
        versions=array(FROM_1, minItems=1),
        ready=described("as in KServe's V1 protocol; a model that is not has the status 503", {"const": True}),
        model_version_status=described(
            "as in TensorFlow Serving",
            array(
                object_schema(
                    version=TEXT,
                    state={"const": "AVAILABLE"},
                    status=object_schema(error_code={"const": "OK"}, error_message=TEXT),
                ),
                minItems=1,
            ),
        ),
    ),
)
LABELS = Component("Labels", object_schema(labels=array(TEXT, minItems=1)))
GRAPH = Component(
    "Graph",
    object_schema(model=TEXT, version=FROM_1, network=TEXT, input=INPUT, preprocess=PREPROCESS, nodes=array(NODE)),
)


def routes(context: ServerContext) -> list[Route]:
    """The routes."""
    models, one = ModelRoutes(context), "/v1/models/{model}"
    listed = object_schema(models=array(MODEL), failed=array(object_schema(artifact=TEXT, reason=TEXT)))

    def of_one(path: str, endpoint: Callable[..., Any], answer: Json, operation_id: str) -> Route:
        model = model_parameter("model")
        return Route(
            "GET", path, endpoint, as_json(answer), errors=LOOKUP, parameters=[model], operation_id=operation_id
        )

    return [
        Route("GET", "/v1/models", models.models, as_json(listed), operation_id="list_models"),
        of_one(one, models.model, MODEL_VERSIONS, "get_model"),
        of_one(f"{one}/labels", models.labels, LABELS, "get_labels"),
        replace(of_one(f"{one}/graph", models.graph, GRAPH, "get_graph"), cached=True),
    ]
