"""GET /v1/models/{m}/layers/{n}/kernels: the weights of one layer, as numbers or a picture."""

import io
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from export.artifact.manifest import ONNX_FILE
from service.context import ServerContext
from service.errors import NoKernels, NotInspectable, QueueFull, TooManyValues, UnknownLayer, UnknownParameter
from service.http.caching import etag_of, not_modified
from service.http.requests import choice, number, parse_query
from service.http.responses import json_response
from service.http.route import LOOKUP, Route, path_parameter, query_names, query_parameter
from service.inspection.kernels import Kernels, kernel_shape, layer_kernels
from service.inspection.tiles import draw_kernels, encode_png
from service.openapi.schema import (
    BINARY,
    COUNT,
    FROM_1,
    NAME,
    NUMBER,
    TEXT,
    Component,
    array,
    as_json,
    described,
    integer_text,
    model_parameter,
    nullable,
    object_schema,
    one_of,
)
from service.serving.served_model import ServedModel

FORMATS, EFFECTIVE = ("json", "npz", "png"), ("false", "true")  # the first is the default
LAYER = {
    **path_parameter("layer", NAME, description="a layer's name, or `LAYER:VALUE` for a value inside a layer"),
    "example": "conv1",
}
PARAMETERS = (
    model_parameter("model"),
    LAYER,
    query_parameter(
        "format",
        "`json`, `npz` for numpy, or `png` for a picture: a row for each output, red where a weight is positive, blue "
        "where it is negative",
        {**one_of(*FORMATS), "default": FORMATS[0]},
    ),
    query_parameter(
        "effective",
        "fold the batch norm behind the layer into weights and bias",
        {**one_of(*EFFECTIVE), "default": EFFECTIVE[0]},
    ),
    query_parameter("output", "one output alone: a channel of the layer's feature map, from 0", integer_text(least=0)),
)


class KernelsRoute:
    """The route. Weights never change within a version, so clients may keep the answer."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._settings = context.settings

    async def answer(self, request: Request) -> Response:
        """Weights and bias of one layer of the served file."""
        with self._context.deadline.limit():
            values = parse_query(request.scope["query_string"], query_names(PARAMETERS))
            form = choice(values, "format", FORMATS)
            effective = choice(values, "effective", EFFECTIVE) == "true"
            output = number(values, "output", least=0, most=999_999_999)
            model = await self._context.find(request.path_params["model"])
            layer = request.path_params["layer"]
            file = model.manifest.files.get(ONNX_FILE)
            etag = etag_of(file.sha256 if file else "", layer, form, effective, output)
            if file and (unchanged := not_modified(request, etag)):
                return unchanged
            answer = await self._context.inspection_queue.run(
                lambda: self._read(model, layer, form, effective=effective, output=output)
            )
            answer.headers["etag"] = etag
            return answer

    def _read(self, model: ServedModel, layer: str, form: str, *, effective: bool, output: int | None) -> Response:
        shape = kernel_shape(model.predictor, layer)
        limit = self._settings.limit("inspection_limit_json_values" if form == "json" else "inspection_limit_values")
        count = int(np.prod(shape)) if output is None else int(np.prod(shape)) // max(1, shape[0])
        if count > limit.value:
            advice = "choose one with ?output=" if output is None else "take format=npz"
            raise TooManyValues(f"these kernels hold {count} weights; the limit is {limit}: {advice}")
        kernels = layer_kernels(model.predictor, layer, effective=effective)
        outputs = len(kernels.weights)
        if output is not None and output >= outputs:
            raise UnknownParameter(f"output is {output}; {layer} has outputs 0 to {outputs - 1}")
        chosen = slice(None) if output is None else slice(output, output + 1)
        weights, bias = kernels.weights[chosen], kernels.bias[chosen]
        if form == "npz":
            buffer = io.BytesIO()
            np.savez(buffer, weights=weights, bias=bias)
            return Response(buffer.getvalue(), media_type="application/x-npz")
        if form == "png":
            return Response(encode_png(draw_kernels(weights)), media_type="image/png")
        return json_response(_described(model, kernels, weights, bias))


def _described(model: ServedModel, kernels: Kernels, weights: Any, bias: Any) -> dict[str, Any]:
    return {
        "model": model.manifest.name,
        "version": model.manifest.version,
        "layer": kernels.layer,
        "operator": kernels.operator,
        "groups": kernels.groups,
        "batch_norm": kernels.batch_norm or None,
        "shape": weights.shape,
        "minimum": float(weights.min()),
        "maximum": float(weights.max()),
        "weights": np.ascontiguousarray(weights),
        "bias": np.ascontiguousarray(bias),
    }


KERNELS = Component(
    "Kernels",
    object_schema(
        model=TEXT,
        version=FROM_1,
        layer=TEXT,
        operator=one_of("Conv", "Gemm", "MatMul"),
        groups=FROM_1,
        batch_norm=described("the layer that is folded in, with effective=true", nullable(TEXT)),
        shape=described("(outputs, inputs / groups, height, width), or (outputs, inputs)", array(COUNT)),
        minimum=NUMBER,
        maximum=NUMBER,
        weights=described("nested as `shape` says", array({})),
        bias=described("one for each output; zeros where the layer has none", array(NUMBER)),
    ),
)


def routes(context: ServerContext) -> list[Route]:
    """The route."""
    return [
        Route(
            "GET",
            "/v1/models/{model}/layers/{layer}/kernels",
            KernelsRoute(context).answer,
            {**as_json(KERNELS), "application/x-npz": {"schema": BINARY}, "image/png": {"schema": BINARY}},
            errors=(*LOOKUP, QueueFull, UnknownParameter, UnknownLayer, NoKernels, NotInspectable, TooManyValues),
            parameters=PARAMETERS,
            cached=True,
            operation_id="get_kernels",
        )
    ]
