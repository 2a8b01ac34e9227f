"""POST /v1/models/{m}/explain: which places of an image the score for a class depends on."""

import asyncio
import base64
import threading
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from export.predictor import default_top_k, top_predictions
from models.images.decode import Floats, Pixels, decode_picture
from service.context import ServerContext
from service.errors import NotInspectable, TooManyValues, UnknownLayer, UnknownParameter
from service.http.disconnect import cancel_on_disconnect
from service.http.requests import choice, number, parse_query, single
from service.http.responses import json_response
from service.http.route import LOOKUP, UPLOAD, Route, query_names, query_parameter
from service.inspection.explain.explanation import Explainer, Explanation, Refused, class_index
from service.inspection.explain.faithfulness import Trust
from service.inspection.explain.maps import to_picture
from service.inspection.explain.methods import MAX_SAMPLES, METHODS, Method, find_method
from service.inspection.explain.overlay import draw_overlay
from service.inspection.explain.watch import Watch
from service.inspection.references.index import find_index, image_normality
from service.inspection.tiles import encode_png
from service.openapi.schema import (
    BINARY,
    COUNT,
    FLAG,
    FROM_1,
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
from service.serving.decode_pool import decode_upload
from service.serving.served_model import ServedModel
from service.settings import Limit, Settings
from service.v1.classify import PREDICTION, PREDICTIONS
from service.v1.events import EVENT_STREAM, EventStream, Report, wants_events
from service.v1.images_body import images_body
from service.v1.references import DATA, LAYER_NORMALITY, data_of, normality_of

ALL = "all"
FORMATS, SIZES, FLAGS = ("json", "png"), ("network", "picture"), ("false", "true")  # the first is the default
_NEEDS_TORCH = ", ".join(f"`{method.name}`" for method in METHODS.values() if method.gradients)
PARAMETERS = (
    model_parameter("model"),
    {
        **query_parameter(
            "method",
            f"`{ALL}` compares all methods in a table; {_NEEDS_TORCH} need torch and the weights. If left out, "
            "`gradcam` where these are there, else a method without gradients",
            one_of(*METHODS, ALL),
        ),
        "example": "ablationcam",
    },
    {
        **query_parameter("class", "a class by its name or its number from 0; the predicted one if left out", TEXT),
        "example": "1",
    },
    {
        **query_parameter("layer", "a layer with a grid of places; the last such layer if left out", TEXT),
        "example": "conv2",
    },
    query_parameter(
        "samples",
        "number of random masks (rise), noisy images (smoothgrad) or steps (integrated_gradients)",
        {"type": "integer", "minimum": 1, "maximum": MAX_SAMPLES},
    ),
    query_parameter(
        "seed", "of the random numbers; the same seed gives the same map", {**integer_text(least=0), "default": 0}
    ),
    query_parameter("evaluate", "measure how far the map can be trusted", {**one_of(*FLAGS), "default": FLAGS[0]}),
    query_parameter("format", "`json`, or `png` for the overlay", {**one_of(*FORMATS), "default": FORMATS[0]}),
    query_parameter(
        "size",
        "of the map and the overlay: the network's input, or the picture that was sent",
        {**one_of(*SIZES), "default": SIZES[0]},
    ),
)


@dataclass(frozen=True)
class Question:
    """A query. Attributes that are None are chosen by the server."""

    method: Method | None
    all_methods: bool
    class_name: str | None
    layer: str | None
    samples: int | None
    seed: int
    evaluate: bool
    as_png: bool
    as_picture: bool


class ExplainRoute:
    """The route. It takes its turn among the inspections; its work stops at the deadline or when the client goes."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._settings = context.settings

    async def answer(self, request: Request) -> Response | EventStream:
        """Class activation or attribution map of one image, and how far to trust it."""
        with self._context.deadline.limit():
            question = read_question(parse_query(request.scope["query_string"], query_names(PARAMETERS)))
            model = await self._context.find(request.path_params["model"])
            if question.class_name is not None:
                class_index(model.manifest.classes, question.class_name)
            streams = request.scope, request.receive
            body = self._context.body_reader.images(*streams, limit_images=Limit(1))
            async with AsyncExitStack() as held:
                (upload,) = await held.enter_async_context(body)
                if wants_events(request.scope) and not question.as_png:

                    async def work(report: Report) -> bytes:
                        return bytes((await self._answered(model, upload, question, report)).body)

                    return EventStream(work, held.pop_all(), self._context.deadline)
                answering = self._answered(model, upload, question, lambda _: None)
                return await cancel_on_disconnect(asyncio.ensure_future(answering), request.receive)

    async def _answered(self, model: ServedModel, upload: bytes, question: Question, report: Report) -> Response:
        stopped = threading.Event()

        def report_runs(method: str, done: int, total: int) -> None:
            report({"method": method, "done": done, "total": total})

        watch = Watch(cancelled=stopped.is_set, report=report_runs)
        try:
            return await self._context.inspection_queue.run(lambda: self._explain(model, upload, question, watch))
        finally:
            stopped.set()

    def _explain(self, model: ServedModel, upload: bytes, question: Question, watch: Watch) -> Response:
        manifest, limit_pixels = model.manifest, self._settings.limit("image_limit_pixels")
        image = decode_upload(upload, manifest.input, limit_pixels)
        explainer = Explainer(model.predictor, image, watch)
        name = question.class_name
        index = explainer.predicted if name is None else class_index(manifest.classes, name)
        answer = _about(model, explainer, image, index)
        if question.all_methods:
            rows = explainer.explain_all(index, layer=question.layer, seed=question.seed)
            return json_response({**answer, "methods": [_row(row) for row in rows]})
        found = explainer.explain(
            question.method or explainer.default_method(),
            index,
            layer=question.layer,
            samples=question.samples,
            seed=question.seed,
            evaluate=question.evaluate,
        )
        values, overlay = self._drawn(model, upload, image, found, question)
        if question.as_png:
            return Response(overlay, media_type="image/png")
        answer = {**answer, **_row(found), "map": _map(values), "overlay": base64.b64encode(overlay).decode()}
        return json_response(answer)

    def _drawn(
        self, model: ServedModel, upload: bytes, image: Pixels, found: Explanation, question: Question
    ) -> tuple[Floats, bytes]:
        """The map and its overlay at the size that was asked for."""
        if not question.as_picture:
            check_size(found.values.shape, self._settings, as_png=question.as_png)
            return found.values, encode_png(draw_overlay(image, found.strengths(found.values)))
        spec, limit_pixels = model.manifest.input, self._settings.image_limit_pixels
        size = model.predictor.picture_size(upload, limit_pixels=limit_pixels)
        check_size(size, self._settings, as_png=question.as_png)
        picture = decode_picture(upload, spec, limit_pixels=limit_pixels)
        values, _ = to_picture(found.values, spec, size)
        return values, encode_png(draw_overlay(picture, found.strengths(values)))


def read_question(values: Mapping[str, Sequence[str]]) -> Question:
    """The question that a query asks.

    Raises:
        UnknownParameter: a value that does not do, or two that do not go together.
    """
    method = single(values, "method")
    question = Question(
        method=None if method in (None, ALL) else find_method(method),
        all_methods=method == ALL,
        class_name=single(values, "class"),
        layer=single(values, "layer"),
        samples=number(values, "samples", least=1, most=MAX_SAMPLES),
        seed=number(values, "seed", least=0, most=999_999_999) or 0,
        evaluate=choice(values, "evaluate", FLAGS) == "true",
        as_png=choice(values, "format", FORMATS) == "png",
        as_picture=choice(values, "size", SIZES) == "picture",
    )
    if question.all_methods and (question.as_png or question.samples):
        raise UnknownParameter(f"method={ALL} answers a table in JSON, with each method's own number of samples")
    return question


def check_size(size: tuple[int, ...], settings: Settings, *, as_png: bool) -> None:
    """Raises TooManyValues if a map of (height, width) is larger than an answer may be."""
    limit = settings.limit("inspection_limit_values" if as_png else "inspection_limit_json_values")
    if size[0] * size[1] > limit.value:
        raise TooManyValues(f"the map has {size[0]}x{size[1]} values; the limit is {limit}")


def _about(model: ServedModel, explainer: Explainer, image: Pixels, index: int) -> dict[str, Any]:
    manifest, served, references = model.manifest, explainer.served, find_index(model.predictor)
    probabilities, logits = served.probabilities[0], served.logits[0]
    return {
        "model": manifest.name,
        "version": manifest.version,
        "served": {
            "file": model.engine.file,
            "maximum_difference": model.predictor.served_difference(image, probabilities),
        },
        "predictions": top_predictions(probabilities, manifest.classes, default_top_k(manifest)),
        "class": {
            "label": manifest.classes[index],
            "index": index,
            "probability": float(probabilities[index]),
            "logit": float(logits[index]),
        },
        "references": references and data_of(references),
        "normality": [{"layer": one.layer, **normality_of(one)} for one in image_normality(model.predictor, image)],
    }


def _row(found: Explanation | Refused) -> dict[str, Any]:
    if isinstance(found, Refused):
        return {"method": found.method.name, "reason": found.reason}
    layer = found.layer
    return {
        "method": found.method.name,
        "file": found.file,
        "layer": layer and layer.name,
        "grid": layer and layer.grid,
        "empty": found.empty,
        "minimum": float(found.values.min()),
        "maximum": float(found.values.max()),
        "trust": found.trust and _trust(found.trust),
    }


def _trust(trust: Trust) -> dict[str, Any]:
    return {
        "deletion_area": trust.deletion_area,
        "insertion_area": trust.insertion_area,
        "drop": trust.drop,
        "increase": trust.increase,
        "fractions": trust.fractions,
        "deletion": trust.deletion,
        "insertion": trust.insertion,
    }


def _map(values: Floats) -> dict[str, Any]:
    return {"height": values.shape[0], "width": values.shape[1], "values": np.ascontiguousarray(values)}


_CURVE = array(NUMBER, minItems=2)
TRUST = Component(
    "ExplanationTrust",
    object_schema(
        deletion_area=described("area under the curve `deletion`: small is good", NUMBER),
        insertion_area=described("area under the curve `insertion`: large is good", NUMBER),
        drop=described("part of the probability that is lost when the image is dimmed by the map", NUMBER),
        increase=described("the probability rises instead", FLAG),
        fractions=described("part of the pixels, the highest of the map first", _CURVE),
        deletion=described("probability when they are replaced by the mean colour", _CURVE),
        insertion=described("probability when they replace a blurred image", _CURVE),
    ),
)
_OF_A_METHOD = {
    "file": described("the file that was run; weights.safetensors for gradients of the rebuilt network", TEXT),
    "layer": described("null for a map of the pixels themselves", nullable(TEXT)),
    "grid": described("height and width of the layer's map, before it is enlarged", nullable(array(FROM_1))),
    "empty": described("no place speaks for the class: the map is constant, or nowhere positive", FLAG),
    "minimum": NUMBER,
    "maximum": NUMBER,
    "trust": described("null if it was not asked for, and for an empty map", {"oneOf": [TRUST, {"type": "null"}]}),
}
ROW = Component(
    "ExplanationRow",
    object_schema(
        {**_OF_A_METHOD, "reason": described("why the method does not work for this network", TEXT)},
        method=one_of(*METHODS),
    ),
)
EXPLANATION = Component(
    "Explanation",
    object_schema(
        {
            **_OF_A_METHOD,
            "method": described("the one that was used", one_of(*METHODS)),
            "map": described(
                "signed, at the size that was asked for; 0 where the network does not see the picture",
                object_schema(height=FROM_1, width=FROM_1, values=array(array(NUMBER))),
            ),
            "overlay": {
                "description": "the map's positive part over the image, in viridis",
                "contentMediaType": "image/png",
                "contentEncoding": "base64",
                **TEXT,
            },
            "methods": described(f"with method={ALL}, in place of the members of one method", array(ROW)),
        },
        model=TEXT,
        version=FROM_1,
        served=object_schema(file=TEXT, maximum_difference=described("of its probabilities to these", NUMBER)),
        predictions=PREDICTIONS,
        references=described(
            "the data that `normality` compares with; null if the artifact has no usable reference images",
            {"oneOf": [DATA, {"type": "null"}]},
        ),
        normality=described("of every layer that has reference images", array(LAYER_NORMALITY)),
        **{
            "class": object_schema(
                label=TEXT, index=COUNT, probability=PREDICTION.schema["properties"]["probability"], logit=NUMBER
            )
        },
    ),
)


def routes(context: ServerContext) -> list[Route]:
    """The route, with the limits that are set."""
    settings = context.settings
    return [
        Route(
            "POST",
            "/v1/models/{model}/explain",
            ExplainRoute(context).answer,
            {**as_json(EXPLANATION), "image/png": {"schema": BINARY}, EVENT_STREAM: {"schema": TEXT}},
            errors=(*UPLOAD, *LOOKUP, UnknownParameter, UnknownLayer, NotInspectable, TooManyValues),
            parameters=PARAMETERS,
            body=images_body(settings, most=1),
            description="Masks and baselines show the mean colour of the normalisation. Gradients are of the logit. "
            f"With `Accept: {EVENT_STREAM}` events `progress` (`method`, `done`, `total`: runs of the network) come "
            "before one `result` with the JSON, or one `error`.",
            operation_id="explain",
        )
    ]
