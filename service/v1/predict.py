"""POST /predict: arrays in JSON, in the format of BentoML's own client.

BentoML itself would parse this body on the event loop, without a limit, and with answers in its own format.
"""

import numpy as np
import orjson
from starlette.types import Receive, Scope, Send

from models.images.decode import Floats, Pixels
from service.context import ServerContext, run_model
from service.errors import (
    BodyTooLarge,
    InferenceFailed,
    MalformedBody,
    TooManyImages,
    UnknownModel,
    UnknownParameter,
    UnsupportedType,
    WrongShape,
)
from service.http.json_pixels import read_pixels
from service.http.requests import get_header
from service.http.responses import send_json
from service.http.route import OVERLOAD, Route
from service.openapi.schema import NAMING, NUMBER, TEXT, array, as_json, object_schema
from service.settings import Limit

PATH = "/predict"


class PredictRoute:
    """Class probabilities of pixels, in the format of BentoML's own client.

    A plain ASGI application.
    """

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers `{"images": [...], "model": "..."}` with probabilities; the caller maps raised errors."""
        content_type = get_header(scope, b"content-type") or "application/json"
        if content_type.partition(";")[0].strip().lower() != "application/json":
            raise UnsupportedType(f"{PATH} takes application/json, not {content_type[:80]}; files go to /v1/classify")
        settings, reader = self._context.settings, self._context.body_reader
        with self._context.deadline.limit():
            async with reader.body(scope, receive, limit_bytes=settings.limit("json_limit_bytes")) as body:
                images, model = _parse(body, settings.limit("json_depth_limit"))
            probabilities = await predict(self._context, images, model, receive)
        contiguous = np.ascontiguousarray(probabilities)
        await send_json(send, 200, orjson.dumps(contiguous, option=orjson.OPT_SERIALIZE_NUMPY))


async def predict(context: ServerContext, images: Pixels, model: str = "", receive: Receive | None = None) -> Floats:
    """Probabilities (N, K) of uint8 images (N, H, W, C) at the network's size.

    Args:
        receive: of the request; None for a caller in this process.
    """
    served = await context.find(model or None)
    wanted = served.manifest.input.shape
    if images.ndim != 4 or images.shape[1:] != wanted or not len(images):
        shape = ", ".join(map(str, wanted))
        raise WrongShape(f"images have the shape {images.shape}; {served.manifest.name} takes (N, {shape})")
    if len(images) > (limit := context.settings.limit("images_per_request")).value:
        raise TooManyImages(f"{len(images)} images; the limit of one request is {limit}")
    probabilities, _ = await run_model(served, images, receive)
    return probabilities


def _parse(body: bytes, limit_depth: Limit) -> tuple[Pixels, str]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"the body is not JSON: {error}") from None
    if not isinstance(content, dict) or "images" not in content:
        raise MalformedBody('the body must be an object with the key "images"')
    if unknown := sorted(set(content) - {"images", "model"}):
        raise MalformedBody(f"there is no key {unknown[0][:40]!r}; known are images, model")
    if not isinstance(model := content.get("model", ""), str):
        raise MalformedBody(f"model must be text, got {type(model).__name__}")
    return read_pixels(content["images"], "images", limit_depth), model


def routes(context: ServerContext) -> list[Route]:
    """The route, with the configured limits."""
    settings = context.settings
    pixel = {"type": "integer", "minimum": 0, "maximum": 255}
    image = array(array(array(pixel, minItems=1), minItems=1), minItems=1)
    model = {**TEXT, "description": f"{NAMING}; empty where only one model is served", "default": ""}
    body = object_schema({"model": model}, images=array(image, minItems=1, maxItems=settings.images_per_request))
    return [
        Route(
            "POST",
            PATH,
            PredictRoute(context),
            as_json(array(array(NUMBER))),
            errors=(
                *OVERLOAD,
                *(BodyTooLarge, InferenceFailed, MalformedBody, TooManyImages),
                *(UnknownModel, UnknownParameter, UnsupportedType, WrongShape),
            ),
            body={
                "required": True,
                "description": f"up to {min(settings.json_limit_bytes, settings.body_limit_bytes)} bytes",
                "content": as_json({**body, "additionalProperties": False}),
            },
            description="Images are `[N, H, W, C]` and have the network's size and mode already.",
            raw=True,
            operation_id="predict_pixels",
        )
    ]
