"""POST /v1/classify: image bytes in, labels with probabilities out."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from models.images.decode import Floats, Pixels
from models.images.errors import ImageError
from service.errors import error_body
from service.http.bodies import BodyReader
from service.http.requests import number, parse_query, single
from service.http.responses import send_json
from service.serving.catalog import Catalog
from service.serving.decoding import decode_uploads, stack_images
from service.serving.predictions import check_top_k, default_top_k, top_predictions
from service.serving.served_model import ServedModel
from service.settings import Settings
from service.telemetry.request_context import current

PARAMETERS = ("model", "version", "top_k")


class Classify:
    """The route as a bare ASGI application: no request object is built on the hot path."""

    def __init__(self, catalog: Catalog, settings: Settings, body_reader: BodyReader, decoders: Executor) -> None:
        self._catalog = catalog
        self._settings = settings
        self._bodies = body_reader
        self._decoders = decoders
        self._limit_top_k = settings.limit("top_k_limit")
        self._limit_pixels = settings.limit("image_limit_pixels")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; errors are raised for the caller to map."""
        values = parse_query(scope["query_string"], PARAMETERS)
        async with asyncio.timeout(self._settings.deadline_s):
            model = await self._catalog.find(single(values, "model"), single(values, "version"))
            classes = len(model.manifest.classes)
            top_k = number(values, "top_k", least=1, most=classes) or default_top_k(model.manifest)
            check_top_k(top_k, self._limit_top_k)
            results = await self._results(model, scope, receive, top_k)
        answer = {"model": model.manifest.name, "version": model.manifest.version, "results": results}
        await send_json(send, 200, orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY))

    async def _results(self, model: ServedModel, scope: Scope, receive: Receive, top_k: int) -> list[dict[str, Any]]:
        async with self._bodies.images(scope, receive) as uploads:
            spec = model.manifest.input
            decoded = await decode_uploads(uploads, spec, limit_pixels=self._limit_pixels, executor=self._decoders)
        if len(decoded) == 1 and isinstance(decoded[0], ImageError):
            raise decoded[0]  # a lone bad image gets its status
        good = [image for image in decoded if not isinstance(image, ImageError)]
        rows = iter(await self._probabilities(model, good, receive))
        current().image_codes = tuple(image.code for image in decoded if isinstance(image, ImageError))
        return [
            {"error": error_body(image)}
            if isinstance(image, ImageError)
            else {"predictions": top_predictions(next(rows), model.manifest.classes, top_k)}
            for image in decoded
        ]

    async def _probabilities(
        self, model: ServedModel, images: Sequence[Pixels], receive: Receive
    ) -> Floats | tuple[Floats, ...]:
        if not images:
            return ()
        probabilities, _ = await model.run(await stack_images(images, self._decoders), receive)
        return probabilities
