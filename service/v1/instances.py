"""POST /v1/models/{m}[/versions/{v}]:predict: inference for clients of TensorFlow Serving and KServe V1."""

from collections.abc import Mapping

import numpy as np
import orjson
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from models.images.decode import Pixels
from models.images.errors import ImageError, NoFiniteScores
from service.context import ServerContext, run_model
from service.errors import InferenceFailed, UnknownParameter, UnsupportedType, WrongShape
from service.http.base64_text import decode_texts
from service.http.compression import decompress_body
from service.http.multipart import MULTIPART
from service.http.requests import media_type_of
from service.http.responses import send_json
from service.http.route import LOOKUP, UPLOAD, Route, path_parameter
from service.openapi.schema import (
    NUMBER,
    ONE_PIXEL,
    Component,
    array,
    as_json,
    described,
    integer_text,
    model_parameter,
    object_schema,
)
from service.serving.decode_pool import decode_uploads, stack_images
from service.serving.served_model import ServedModel
from service.v1.instances_request import Instances, parse_instances


class InstancesRoute:
    """Probabilities, in TensorFlow Serving's predict API and KServe's V1 protocol.

    A plain ASGI application, like `service.v1.classify`.
    """

    def __init__(self, context: ServerContext) -> None:
        settings = context.settings
        self._context = context
        self._limit_bytes = settings.limit("body_limit_bytes")
        self._limit_pixels = settings.limit("image_limit_pixels")
        self._limits = {
            "limit_images": settings.limit("images_per_request"),
            "limit_json_bytes": settings.limit("json_limit_bytes"),
            "limit_depth": settings.limit("json_depth_limit"),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; the caller maps raised errors."""
        named: Mapping[str, str] = scope["path_params"]
        # Like TensorFlow Serving, this takes JSON under any media type; curl -d sends another one.
        if (media_type := media_type_of(scope)) == MULTIPART or media_type.startswith("image/"):
            raise UnsupportedType(f"{scope['path']} takes JSON, not {media_type}; image files go to /v1/classify")
        with self._context.deadline.limit():
            model = await self._context.find(named["model"], named.get("version"))
            request, images = await self._read(model, scope, receive)
            probabilities, _ = await run_model(model, images, receive)
        if not np.isfinite(probabilities).all():
            raise NoFiniteScores
        answer = {request.answer: np.ascontiguousarray(probabilities)}
        await send_json(send, 200, orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY))

    async def _read(self, model: ServedModel, scope: Scope, receive: Receive) -> tuple[Instances, Pixels]:
        """The request, and its images as uint8 (N, H, W, C)."""
        reader, encoding = self._context.body_reader, Headers(scope=scope).get("content-encoding", "")
        held = reader.body(scope, receive)
        async with (
            held as received,
            decompress_body(
                received,
                encoding.strip().lower(),
                body_reader=reader,
                limit_bytes=self._limit_bytes,
                executor=self._context.decoders,
            ) as body,
        ):
            request = parse_instances(body, model.manifest.input, **self._limits)
            if not isinstance(request.images, dict):
                return request, request.images
            files = await decode_texts(request.images)
            held.hold(sum(map(len, files)))
            return request, await self._decode(model, files, list(request.images))

    async def _decode(self, model: ServedModel, files: list[bytes], names: list[str]) -> Pixels:
        spec, decoders = model.manifest.input, self._context.decoders
        decoded = await decode_uploads(files, spec, limit_pixels=self._limit_pixels, executor=decoders)
        for image, name in zip(decoded, names, strict=True):
            if isinstance(image, ImageError):  # the answer has no place for an error, so one bad image fails them all
                raise type(image)(f"{name}: {image}")
        return await stack_images([image for image in decoded if not isinstance(image, ImageError)], decoders)


_INSTANCE = described(
    '`{"b64": "..."}` with an image file of any size in base64, or pixels in nested lists, `[H, W, C]` or, of a grey '
    "network, `[H, W]`, from 0 to 255 and of the network's size; either may be in an object under any one name",
    {},
)
_SIGNATURE = described("ignored: there is one signature", {})
REQUEST = Component(
    "Instances",
    {
        **object_schema({"signature_name": _SIGNATURE}, instances=array(_INSTANCE, minItems=1)),
        "additionalProperties": False,
    },
)
COLUMNS = Component(
    "Inputs",
    {
        **object_schema(
            {"signature_name": _SIGNATURE},
            inputs=described("the same as a list, also under one name", {}),
        ),
        "additionalProperties": False,
    },
)
_PROBABILITIES = described("of each image's classes, in the order of the labels", array(array(NUMBER)))
ANSWER = Component("Predictions", object_schema(predictions=_PROBABILITIES))
OUTPUTS = Component("Outputs", object_schema(outputs=_PROBABILITIES))


def routes(context: ServerContext) -> list[Route]:
    """The routes, with the configured limits."""
    settings, endpoint = context.settings, InstancesRoute(context)
    model = model_parameter("model")
    version = path_parameter("version", integer_text(least=1))
    body = {
        "required": True,
        "description": f"JSON under any media type, also with `Content-Encoding: gzip` or `deflate`. Up to "
        f"{settings.images_per_request} images; pixels in up to {settings.json_limit_bytes} bytes.",
        "content": as_json({"oneOf": [REQUEST, COLUMNS]}, example={"instances": [{"b64": ONE_PIXEL}]}),
    }
    return [
        Route(
            "POST",
            f"{path}:predict",
            endpoint,
            as_json({"oneOf": [ANSWER, OUTPUTS]}),
            errors=(*LOOKUP, *UPLOAD, InferenceFailed, UnknownParameter, UnsupportedType, WrongShape),
            parameters=parameters,
            body=body,
            operation_id=operation_id,
            description="`instances` are answered by `predictions`, and `inputs` by `outputs`. One bad image fails "
            'them all. Errors are `{"error": "..."}`, as in the protocol.',
            raw=True,
        )
        for path, parameters, operation_id in (
            ("/v1/models/{model}", (model,), "predict_instances"),
            ("/v1/models/{model}/versions/{version}", (model, version), "predict_instances_of_version"),
        )
    ]
