"""POST /v2/models/{m}[/versions/{v}]/infer: inference of the Open Inference Protocol."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from export.predictor import top_predictions
from models.graph.node import Node
from models.images.decode import Floats, Pixels
from models.images.errors import ImageError, NoFiniteScores
from service.context import ServerContext, run_model
from service.errors import (
    InferenceFailed,
    MalformedBody,
    NotInspectable,
    TooManyValues,
    UnknownLayer,
    UnsupportedType,
    WrongShape,
)
from service.http.compression import decompress_body
from service.http.requests import check_top_k, is_number
from service.http.responses import send_body, send_json
from service.http.route import UPLOAD, Json, Route
from service.openapi.schema import (
    BINARY,
    COUNT,
    FLAG,
    NUMBER,
    ONE_PIXEL,
    TEXT,
    Component,
    array,
    as_json,
    described,
    integer_text,
    nullable,
    object_schema,
    one_of,
)
from service.serving.decode_pool import decode_uploads, stack_images
from service.serving.served_model import ServedModel
from service.v2.layers import check_layers, find_layers, run_layers
from service.v2.paths import PER_MODEL
from service.v2.request import INPUT, InferRequest, RequestedOutput, parse_request, raw_request
from service.v2.tensors import HEADER_LENGTH, Tensor, encode_answer

_BINARY_TYPE = "application/octet-stream"


class InferRoute:
    """Inference: probabilities, logits, and any layer by its name.

    A plain ASGI application, like `service.v1.classify`.
    """

    def __init__(self, context: ServerContext) -> None:
        settings = context.settings
        self._context = context
        self._settings = settings
        self._limit_bytes = settings.limit("body_limit_bytes")
        self._limit_json_bytes = settings.limit("json_limit_bytes")
        self._limit_images = settings.limit("images_per_request")
        self._limit_pixels = settings.limit("image_limit_pixels")
        self._limit_top_k = settings.limit("top_k_limit")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; the caller maps raised errors."""
        with self._context.deadline.limit():
            model = await self._context.find(**scope["path_params"])
            request, nodes, images = await self._read(model, scope, receive)
            fields, tensors = await self._answer(model, request, nodes, images, receive)
            # Layers are megabytes; scores are too small to be worth a thread.
            answer = (
                await asyncio.to_thread(encode_answer, fields, tensors) if nodes else encode_answer(fields, tensors)
            )
        if answer.header_bytes is None:
            await send_json(send, 200, answer.body)
        else:
            length = (HEADER_LENGTH.encode(), str(answer.header_bytes).encode())
            await send_body(send, 200, answer.body, _BINARY_TYPE.encode(), [length])

    async def _read(
        self, model: ServedModel, scope: Scope, receive: Receive
    ) -> tuple[InferRequest, list[Node], Pixels]:
        """The request, its layers, and its images, uint8 (N, H, W, C)."""
        headers = Headers(scope=scope)
        header_bytes = _header_bytes(headers)
        limit = self._limit_json_bytes if header_bytes is None else self._limit_bytes
        spec = model.manifest.input
        async with (
            self._context.body_reader.body(scope, receive, limit_bytes=limit) as received,
            decompress_body(
                received,
                headers.get("content-encoding", "").strip().lower(),
                body_reader=self._context.body_reader,
                limit_bytes=limit,
                executor=self._context.decoders,
            ) as body,
        ):
            if header_bytes == 0:
                request = raw_request(body, headers.get("content-type", ""), spec)
            else:
                request = parse_request(
                    body,
                    header_bytes,
                    spec,
                    limit_images=self._limit_images,
                    limit_json_bytes=self._limit_json_bytes,
                )
            for output in request.outputs:
                check_top_k(_count(output, model.manifest.classes), self._limit_top_k)
            nodes = find_layers(model, request.outputs)
            check_layers(nodes, request.outputs, len(request.images), self._settings)
            if isinstance(request.images, np.ndarray):
                return request, nodes, request.images
            return request, nodes, await self._decode(model, request.images)

    async def _decode(self, model: ServedModel, uploads: Sequence[bytes]) -> Pixels:
        decoded = await decode_uploads(
            uploads,
            model.manifest.input,
            limit_pixels=self._limit_pixels,
            executor=self._context.decoders,
        )
        for index, image in enumerate(decoded):
            if isinstance(image, ImageError):  # a tensor has no place for an error, so one bad image fails them all
                raise type(image)(f"image {index}: {image}") if len(decoded) > 1 else image
        return await stack_images(
            [image for image in decoded if not isinstance(image, ImageError)], self._context.decoders
        )

    async def _answer(
        self, model: ServedModel, request: InferRequest, nodes: Sequence[Node], images: Pixels, receive: Receive
    ) -> tuple[dict[str, Any], list[Tensor]]:
        """The fields of the answer and its outputs, in the requested order."""
        manifest = model.manifest
        fields: dict[str, Any] = {"model_name": manifest.name, "model_version": str(manifest.version)}
        if request.id is not None:
            fields["id"] = request.id
        layers = None
        if nodes:
            queue = self._context.inspection_queue
            layers = await run_layers(model, images, nodes, inspection_queue=queue, receive=receive)
        probabilities, logits = await run_model(model, images, receive)
        if not np.isfinite(probabilities).all():
            raise NoFiniteScores  # JSON has no such numbers, and a class none
        values = {"probabilities": probabilities, "logits": logits}
        if layers is not None:
            difference = float(np.abs(layers.probabilities - probabilities).max())
            fields["parameters"] = {"layers_file": layers.file, "maximum_difference": difference}
            values |= {name: value for name, value in layers.values.items() if name not in values}
        return fields, [_tensor(output, values[output.name], manifest.classes) for output in request.outputs]


def _tensor(output: RequestedOutput, value: Floats, classes: tuple[str, ...]) -> Tensor:
    if not output.classes:
        return Tensor(name=output.name, shape=value.shape, values=value, binary=output.binary)
    count = _count(output, classes)
    texts = [
        f"{row['probability']}:{row['index']}:{row['label']}".encode()
        for scores in value
        for row in top_predictions(scores, classes, count)
    ]
    return Tensor(name=output.name, shape=(len(value), count), values=texts, binary=output.binary)


def _count(output: RequestedOutput, classes: Sequence[str]) -> int:
    return min(output.classes, len(classes))  # as in Triton, so that top-5 of two classes returns both


def _header_bytes(headers: Headers) -> int | None:
    given = headers.get(HEADER_LENGTH)
    if given is None:
        return None
    if not is_number(given):
        raise MalformedBody(f"Inference-Header-Content-Length is {given[:20]!r}; wanted a number of bytes")
    return int(given)


_OPEN = nullable({"type": "object"})
_TENSOR = Component(
    "V2Tensor",
    object_schema(
        {
            "data": described("pixels, flat or nested, or image files in base64", array({})),
            "parameters": {
                **_OPEN,
                "properties": {
                    "binary_data_size": {
                        "description": "the length of the tensor after the JSON, in place of `data`",
                        "type": "integer",
                    },
                    "content_type": described("`base64` for image files in JSON", TEXT),
                },
            },
        },
        name={"const": INPUT},
        datatype=described("UINT8 is pixels, BYTES is image files", one_of("UINT8", "BYTES")),
        shape=described("[N, H, W, C] of UINT8, [N] or [N, 1] of BYTES", array(COUNT, minItems=1, maxItems=4)),
    ),
)
_WANTED = Component(
    "V2Wanted",
    object_schema(
        {
            "parameters": {
                **_OPEN,
                "properties": {
                    "binary_data": nullable(FLAG),
                    "classification": described(
                        "number of highest values, as `value:index:label`; limited like `top_k`", nullable(COUNT)
                    ),
                },
            }
        },
        name={"description": "probabilities, logits, or a layer", **TEXT, "maxLength": 256},
    ),
)
REQUEST = Component(
    "V2Request",
    object_schema(
        {
            "id": described("returned in the answer", nullable(TEXT)),
            "outputs": described("probabilities and logits by default", nullable(array(_WANTED))),
            "parameters": {**_OPEN, "properties": {"binary_data_output": nullable(FLAG)}},
        },
        inputs=array(_TENSOR, minItems=1, maxItems=1),
    ),
)
_OUTPUT = Component(
    "V2Output",
    object_schema(
        {
            "data": described("flat, row by row", array({"type": ["number", "string"]})),
            "parameters": described("instead of `data`", object_schema(binary_data_size=COUNT)),
        },
        name=TEXT,
        datatype=one_of("FP32", "BYTES"),
        shape=array(COUNT),
    ),
)
_LAYERS = object_schema(
    layers_file=described("the file that computed the layers", TEXT),
    maximum_difference=described("of its probabilities from those of the serving file", NUMBER),
)
ANSWER = Component(
    "V2Answer",
    object_schema(
        {"id": TEXT, "parameters": described("if layers were requested", _LAYERS)},
        model_name=TEXT,
        model_version=TEXT,
        outputs=array(_OUTPUT),
    ),
)
_EXAMPLE: Json = {
    "inputs": [
        {
            "name": INPUT,
            "datatype": "BYTES",
            "shape": [1],
            "parameters": {"content_type": "base64"},
            "data": [ONE_PIXEL],
        }
    ]
}
_HEADER: Json = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "length of the JSON in the body; by default the whole body",
    "schema": integer_text(least=0),
}


def routes(context: ServerContext) -> list[Route]:
    """The routes, with the configured limits."""
    settings, endpoint = context.settings, InferRoute(context)
    tensor = described(
        "JSON and the tensor after it; or, with a header of 0, the pixels of one image, or an image file under its own "
        "media type",
        BINARY,
    )
    body = {
        "required": True,
        "description": f"Up to {settings.body_limit_bytes} bytes, of which up to {settings.json_limit_bytes} are "
        "JSON; may have `Content-Encoding: gzip` or `deflate`, and limits apply to the decompressed content. "
        f"Up to {settings.images_per_request} images.",
        "content": {
            **as_json(REQUEST, example=_EXAMPLE),
            _BINARY_TYPE: {"schema": tensor},
        },
    }
    length = {"description": "length of the JSON in a binary answer", "schema": {"type": "integer"}}
    return [
        Route(
            "POST",
            f"{path}/infer",
            endpoint,
            {**as_json(ANSWER), _BINARY_TYPE: {"schema": BINARY}},
            errors=(
                *(*errors, *UPLOAD),
                *(InferenceFailed, NotInspectable, TooManyValues, UnknownLayer, UnsupportedType, WrongShape),
            ),
            parameters=(*parameters, _HEADER),
            body=body,
            headers={HEADER_LENGTH: length},
            raw=True,
            operation_id=f"v2_infer{suffix}",
        )
        for path, parameters, errors, suffix in PER_MODEL
    ]
