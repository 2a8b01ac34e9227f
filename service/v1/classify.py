"""POST /v1/classify: image bytes in, labels with probabilities out."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from export.predictor import DEFAULT_TOP_K, default_top_k, notes_on_scores, top_predictions
from models.images.decode import Floats, Pixels
from models.images.errors import ImageError
from service.context import ServerContext, run_model
from service.errors import InferenceFailed, UnknownModel, UnknownParameter, error_body
from service.http.bodies import may_hold_options
from service.http.requests import check_top_k, number, parse_query, single
from service.http.responses import send_json
from service.http.route import UPLOAD, Json, Route, query_names, query_parameter
from service.openapi.document import PLACE, REFUSED
from service.openapi.schema import (
    COUNT,
    FROM_1,
    NAME,
    NAMING,
    TEXT,
    Component,
    array,
    as_json,
    described,
    integer_text,
    object_schema,
)
from service.serving.decode_pool import decode_uploads, stack_images
from service.serving.served_model import ServedModel
from service.telemetry.request_context import current
from service.v1.images_body import images_body

_PROBABILITY: Json = {"type": "number", "minimum": 0, "maximum": 1.0001}  # a softmax of float32 may pass 1
PREDICTION = Component("Prediction", object_schema(label=TEXT, index=COUNT, probability=_PROBABILITY))
PREDICTIONS = described("the most probable first", array(PREDICTION, minItems=1))
NOTES = described(
    "left out if there are none: what is suspicious about the image or unusual about its scores, in words",
    array(TEXT, minItems=1),
)
PREDICTED = Component("Predicted", object_schema({"notes": NOTES, **PLACE}, predictions=PREDICTIONS))
_RESULT = {"oneOf": [PREDICTED, REFUSED]}
_RESULTS = described("one for each image, in their order", array(_RESULT, minItems=1))
CLASSIFICATION = Component("Classification", object_schema(model=TEXT, version=FROM_1, results=_RESULTS))


class ClassifyRoute:
    """Classifies images.

    A plain ASGI application: no request object is built on the hot path.
    """

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._limit_top_k = context.settings.limit("top_k_limit")
        self._limit_pixels = context.settings.limit("image_limit_pixels")
        self.parameters = (
            query_parameter("model", f"{NAMING}; may be left out where only one model is served", NAME),
            query_parameter("version", "of the model; the newest if left out", integer_text(least=1)),
            query_parameter(
                "top_k",
                f"classes for each image, up to {self._limit_top_k.value} and up to all; {DEFAULT_TOP_K} if left out, "
                "or all where there are fewer",
                integer_text(least=1),
            ),
        )
        self._names = query_names(self.parameters)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; the caller maps raised errors."""
        values = parse_query(scope["query_string"], self._names)
        with self._context.deadline.limit():
            early = "model" in values or not may_hold_options(scope)  # else the body may name it
            choice = await self._choose(values) if early else None
            async with self._context.body_reader.images(scope, receive, fields=self._names) as uploads:
                if choice is None or uploads.fields:
                    body = "form" if uploads.places else "JSON"
                    choice = await self._choose(_merged(values, uploads.fields, body))
                model, top_k = choice
                spec, decoders = model.manifest.input, self._context.decoders
                notes = [notes_on_scores(model.manifest) for _ in uploads]
                decoded = await decode_uploads(
                    uploads, spec, limit_pixels=self._limit_pixels, executor=decoders, notes=notes
                )
            results = await self._results(model, decoded, notes, top_k, receive)
        for result, (field, name) in zip(results, uploads.places, strict=False):
            result |= {"field": field, "file": name}
        answer = {"model": model.manifest.name, "version": model.manifest.version, "results": results}
        await send_json(send, 200, orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY))

    async def _choose(self, values: Mapping[str, Sequence[str]]) -> tuple[ServedModel, int]:
        """The model, and the number of classes."""
        model = await self._context.find(single(values, "model"), single(values, "version"))
        asked = number(values, "top_k", least=1)
        top_k = min(asked, len(model.manifest.classes)) if asked else default_top_k(model.manifest)
        check_top_k(top_k, self._limit_top_k)
        return model, top_k

    async def _results(
        self,
        model: ServedModel,
        decoded: Sequence[Pixels | ImageError],
        notes: Sequence[list[str]],
        top_k: int,
        receive: Receive,
    ) -> list[dict[str, Any]]:
        if len(decoded) == 1 and isinstance(decoded[0], ImageError):
            raise decoded[0]  # a lone bad image has an error status
        good = [image for image in decoded if not isinstance(image, ImageError)]
        rows = iter(await self._probabilities(model, good, receive))
        results = [
            image if isinstance(image, ImageError) else _result(next(rows), model.manifest.classes, top_k, found)
            for image, found in zip(decoded, notes, strict=True)
        ]
        if len(results) == 1 and isinstance(results[0], ImageError):
            raise results[0]
        current().image_codes = tuple(one.code for one in results if isinstance(one, ImageError))
        return [{"error": error_body(one)} if isinstance(one, ImageError) else one for one in results]

    async def _probabilities(
        self, model: ServedModel, images: Sequence[Pixels], receive: Receive
    ) -> Floats | tuple[Floats, ...]:
        if not images:
            return ()
        probabilities, _ = await run_model(model, await stack_images(images, self._context.decoders), receive)
        return probabilities


def _merged(values: dict[str, list[str]], fields: Mapping[str, str], body: str) -> dict[str, list[str]]:
    """The options of the query and of the body; empty fields of a form were not filled in."""
    filled = {name: value for name, value in fields.items() if value}
    if twice := values.keys() & filled.keys():
        raise UnknownParameter(f"{min(twice)} is in the query and in the {body}; wanted one value")
    return values | {name: [value] for name, value in filled.items()}


def _result(row: Floats, classes: tuple[str, ...], top_k: int, notes: list[str]) -> dict[str, Any] | ImageError:
    try:
        predictions = top_predictions(row, classes, top_k)
    except ImageError as error:
        return error
    return {"predictions": predictions, "notes": notes} if notes else {"predictions": predictions}


def routes(context: ServerContext) -> list[Route]:
    """The route, with the configured limits."""
    endpoint, settings = ClassifyRoute(context), context.settings
    return [
        Route(
            "POST",
            "/v1/classify",
            endpoint,
            as_json(CLASSIFICATION),
            errors=(*UPLOAD, UnknownModel, UnknownParameter, InferenceFailed),
            parameters=endpoint.parameters,
            body=images_body(settings, most=settings.images_per_request, options=endpoint.parameters),
            description="A lone bad image gets its status. Among several it fails alone: the answer is 200 then, with "
            "an error in its place.",
            raw=True,
            operation_id="classify",
        )
    ]
