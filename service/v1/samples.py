"""GET /v1/models/{m}/samples: the artifact's golden images, to try the model with."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from export.artifact.golden import read_golden
from export.artifact.manifest import GOLDEN_FILE, ArtifactError
from models.images.decode import Floats, Pixels, to_pil
from service.context import ServerContext
from service.errors import UnknownSample
from service.http.caching import etag_of, not_modified
from service.http.requests import is_number
from service.http.responses import json_response
from service.http.route import LOOKUP, Route, path_parameter
from service.inspection.tiles import encode_png
from service.openapi.schema import (
    BINARY,
    COUNT,
    FROM_1,
    TEXT,
    Component,
    array,
    as_json,
    described,
    model_parameter,
    object_schema,
)
from service.serving.served_model import ModelEntry
from service.v1.classify import PREDICTION

INDEX = {
    **path_parameter("index", {"type": "integer", "minimum": 0}, description="a sample, from 0"),
    "example": 0,
}


class SampleRoutes:
    """The routes. Samples never change within a version, so clients may keep the answers."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def samples(self, request: Request) -> Response:
        """Images from the training that every artifact carries, with the trained network's answers."""
        entry = self._context.entry(request.path_params["model"])
        etag = _etag(entry)
        if unchanged := not_modified(request, etag):
            return unchanged
        images, probabilities = await _read(entry)
        classes = entry.manifest.classes
        rows = [
            {
                "index": index,
                "height": image.shape[0],
                "width": image.shape[1],
                "prediction": {
                    "label": classes[int(row.argmax())],
                    "index": int(row.argmax()),
                    "probability": float(row.max()),
                },
            }
            for index, (image, row) in enumerate(zip(images, probabilities, strict=True))
        ]
        answer = json_response({"model": entry.manifest.name, "version": entry.manifest.version, "samples": rows})
        answer.headers["etag"] = etag
        return answer

    async def sample(self, request: Request) -> Response:
        """One of these images, at its own size."""
        entry = self._context.entry(request.path_params["model"])
        etag = _etag(entry, index := request.path_params["index"])
        if unchanged := not_modified(request, etag):
            return unchanged
        images, _ = await _read(entry)
        if not is_number(index) or int(index) >= len(images):
            raise UnknownSample(f"{entry.manifest.name} has no sample {index[:20]!r}; it has 0 to {len(images) - 1}")
        content = await asyncio.to_thread(lambda: encode_png(to_pil(images[int(index)])))
        return Response(content, media_type="image/png", headers={"etag": etag})


def _etag(entry: ModelEntry, *parts: str) -> str:
    file = entry.manifest.files.get(GOLDEN_FILE)
    return etag_of(file.sha256 if file else "", *parts)


async def _read(entry: ModelEntry) -> tuple[list[Pixels], Floats]:
    try:
        return await asyncio.to_thread(lambda: read_golden(entry.directory))
    except ArtifactError:
        raise UnknownSample(f"{entry.manifest.name} has no samples: {GOLDEN_FILE} cannot be read") from None


SAMPLES = Component(
    "Samples",
    object_schema(
        model=TEXT,
        version=FROM_1,
        samples=array(
            object_schema(
                index=COUNT,
                height=FROM_1,
                width=FROM_1,
                prediction=described("of the trained network", PREDICTION),
            )
        ),
    ),
)


def routes(context: ServerContext) -> list[Route]:
    """The routes."""
    handlers, model = SampleRoutes(context), model_parameter("model")
    path, errors = "/v1/models/{model}/samples", (*LOOKUP, UnknownSample)
    return [
        Route("GET", path, handlers.samples, as_json(SAMPLES), errors, (model,), cached=True),
        Route(
            "GET",
            f"{path}/{{index}}",
            handlers.sample,
            {"image/png": {"schema": BINARY}},
            errors,
            (model, INDEX),
            cached=True,
        ),
    ]
