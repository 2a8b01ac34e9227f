"""GET /v1/models/{m}/samples: the artifact's golden images, to try the model with."""

import asyncio
import base64
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from export.artifact.golden import read_golden
from export.artifact.manifest import GOLDEN_FILE, ArtifactError
from models.images.decode import Floats, Pixels, to_pil
from service.context import ServerContext
from service.errors import UnknownParameter, UnknownSample
from service.http.caching import etag_of, not_modified
from service.http.requests import choice, is_number, parse_query
from service.http.responses import json_response
from service.http.route import LOOKUP, Route, path_parameter, query_names, query_parameter
from service.inspection.tiles import encode_png
from service.openapi.schema import (
    BASE64,
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
    one_of,
)
from service.serving.served_model import ModelEntry
from service.v1.classify import PREDICTION

INDEX = {
    **path_parameter("index", {"type": "integer", "minimum": 0}, description="a sample, from 0"),
    "example": 0,
}
FORMATS = ("png", "json")
PARAMETERS = (
    INDEX,
    query_parameter(
        "format",
        "`png`, or `json` for its prediction and the PNG in base64",
        {**one_of(*FORMATS), "default": FORMATS[0]},
    ),
)


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
            _described(index, image, row, classes)
            for index, (image, row) in enumerate(zip(images, probabilities, strict=True))
        ]
        answer = json_response({"model": entry.manifest.name, "version": entry.manifest.version, "samples": rows})
        answer.headers["etag"] = etag
        return answer

    async def sample(self, request: Request) -> Response:
        """One of these images, at its own size."""
        entry = self._context.entry(request.path_params["model"])
        form = choice(parse_query(request.scope["query_string"], query_names(PARAMETERS)), "format", FORMATS)
        etag = _etag(entry, index := request.path_params["index"], form)
        if unchanged := not_modified(request, etag):
            return unchanged
        images, probabilities = await _read(entry)
        if not is_number(index) or int(index) >= len(images):
            raise UnknownSample(f"{entry.manifest.name} has no sample {index[:20]!r}; it has 0 to {len(images) - 1}")
        image = images[int(index)]
        content = await asyncio.to_thread(lambda: encode_png(to_pil(image)))
        if form == "json":
            row = _described(int(index), image, probabilities[int(index)], entry.manifest.classes)
            answer = json_response({**row, "image": base64.b64encode(content).decode()})
            answer.headers["etag"] = etag
            return answer
        return Response(content, media_type="image/png", headers={"etag": etag})


def _described(index: int, image: Pixels, row: Floats, classes: tuple[str, ...]) -> dict[str, Any]:
    best = int(row.argmax())
    return {
        "index": index,
        "height": image.shape[0],
        "width": image.shape[1],
        "prediction": {"label": classes[best], "index": best, "probability": float(row.max())},
    }


def _etag(entry: ModelEntry, *parts: str) -> str:
    file = entry.manifest.files.get(GOLDEN_FILE)
    return etag_of(file.sha256 if file else "", *parts)


async def _read(entry: ModelEntry) -> tuple[list[Pixels], Floats]:
    try:
        return await asyncio.to_thread(lambda: read_golden(entry.directory))
    except ArtifactError:
        raise UnknownSample(f"{entry.manifest.name} has no samples: {GOLDEN_FILE} cannot be read") from None


_SAMPLE = {
    "index": COUNT,
    "height": FROM_1,
    "width": FROM_1,
    "prediction": described("of the trained network", PREDICTION),
}
SAMPLES = Component(
    "Samples",
    object_schema(
        model=TEXT,
        version=FROM_1,
        samples=array(object_schema(**_SAMPLE)),
    ),
)
SAMPLE = Component("Sample", object_schema(**_SAMPLE, image=described("a PNG file", BASE64)))


def routes(context: ServerContext) -> list[Route]:
    """The routes."""
    handlers, model = SampleRoutes(context), model_parameter("model")
    path, errors = "/v1/models/{model}/samples", (*LOOKUP, UnknownSample)
    return [
        Route(
            "GET",
            path,
            handlers.samples,
            as_json(SAMPLES),
            errors,
            (model,),
            cached=True,
            operation_id="list_samples",
        ),
        Route(
            "GET",
            f"{path}/{{index}}",
            handlers.sample,
            {"image/png": {"schema": BINARY}, **as_json(SAMPLE)},
            (*errors, UnknownParameter),
            (model, *PARAMETERS),
            cached=True,
            operation_id="get_sample",
        ),
    ]
