"""POST /predict: arrays in JSON, as BentoML's own client sends them.

BentoML would parse this body itself, on the event loop, without a limit, and with answers in a shape of its own.
"""

import asyncio

import numpy as np
import orjson
from starlette.types import Receive, Scope, Send

from models.images.decode import Floats, Pixels
from service.errors import MalformedBody, TooManyImages, UnsupportedType, WrongShape
from service.http.bodies import BodyReader
from service.http.json_pixels import read_pixels
from service.http.requests import header
from service.http.responses import send_json
from service.serving.catalog import Catalog
from service.settings import Limit, Settings

PATH = "/predict"


class Predict:
    """The route as an ASGI application, and `run` for callers in this process."""

    def __init__(self, catalog: Catalog, settings: Settings, body_reader: BodyReader) -> None:
        self._catalog = catalog
        self._settings = settings
        self._bodies = body_reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers `{"images": [...], "model": "..."}` with probabilities; errors are raised for the caller to map."""
        content_type = header(scope, b"content-type") or "application/json"
        if content_type.partition(";")[0].strip().lower() != "application/json":
            raise UnsupportedType(f"{PATH} takes application/json, not {content_type[:80]}; files go to /v1/classify")
        async with asyncio.timeout(self._settings.deadline_s):
            async with self._bodies.body(scope, receive, limit_bytes=self._settings.limit("json_limit_bytes")) as body:
                images, model = _parse(body, self._settings.limit("json_depth_limit"))
            probabilities = await self.run(images, model, receive)
        contiguous = np.ascontiguousarray(probabilities)
        await send_json(send, 200, orjson.dumps(contiguous, option=orjson.OPT_SERIALIZE_NUMPY))

    async def run(self, images: Pixels, model: str = "", receive: Receive | None = None) -> Floats:
        """Probabilities (N, K) of uint8 images (N, H, W, C) at the network's size.

        Raises:
            WrongShape, TooManyImages, UnknownModel, UnknownParameter, QueueFull, ClientGone: see there.
        """
        served = await self._catalog.find(model or None)
        wanted = served.manifest.input.shape
        if images.ndim != 4 or images.shape[1:] != wanted or not len(images):
            shape = ", ".join(map(str, wanted))
            raise WrongShape(f"images have the shape {images.shape}; {served.manifest.name} takes (N, {shape})")
        if len(images) > (limit := self._settings.limit("images_per_request")).value:
            raise TooManyImages(f"{len(images)} images; the limit of one request is {limit}")
        probabilities, _ = await served.run(images, receive)
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
