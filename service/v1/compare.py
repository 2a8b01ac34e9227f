"""POST /v1/models/{m}/compare: two images in one model, or one image in two models, layer by layer."""

from collections.abc import Sequence
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import Response

from export.predictor import default_top_k, top_predictions
from models.graph.node import Node
from models.images.decode import Pixels
from service.context import ServerContext
from service.errors import NotInspectable, TooManyValues, UnknownLayer, UnknownParameter
from service.http.requests import listed, parse_query, single
from service.http.responses import json_response
from service.http.route import LOOKUP, UPLOAD, Route, query_names, query_parameter
from service.inspection.channels import check_size
from service.inspection.compare import compare
from service.inspection.feature_maps import select_nodes
from service.inspection.units import extractor_of
from service.openapi.schema import (
    COUNT,
    FROM_1,
    NAME,
    NAMING,
    NUMBER,
    TEXT,
    Component,
    array,
    as_json,
    described,
    model_parameter,
    nullable,
    object_schema,
)
from service.serving.decode_pool import decode_upload
from service.serving.served_model import ServedModel
from service.settings import Limit
from service.v1.classify import PREDICTIONS
from service.v1.images_body import images_body

PARAMETERS = (
    model_parameter("model"),
    query_parameter("with", f"another model for the same image: {NAMING}; left out with two images", NAME),
    query_parameter(
        "layers", "names or globs (`conv*`), also several with commas between them; all if left out", array(TEXT)
    ),
)


class CompareRoute:
    """The route. It takes its turn among the inspections."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._settings = context.settings

    async def answer(self, request: Request) -> Response:
        """Differences layer by layer between two images, or between two models on one image."""
        with self._context.deadline.limit():
            values = parse_query(request.scope["query_string"], query_names(PARAMETERS))
            first = await self._context.find(request.path_params["model"])
            other = single(values, "with")
            second = first if other is None else await self._context.find(other)
            extractor_of(second.predictor)
            nodes = select_nodes(first.predictor, listed(values, "layers") or ["*"])
            check_size(nodes, self._settings.limit("inspection_limit_values"), "choose some with ?layers=", images=2)
            streams = request.scope, request.receive
            async with self._context.body_reader.images(*streams, limit_images=Limit(2)) as uploads:
                if len(uploads) != (2 if other is None else 1):
                    raise UnknownParameter(
                        f"{len(uploads)} images came; send two for one model, or one and another model with ?with="
                    )
                return await self._context.inspect(
                    lambda: self._compare((first, second), (uploads[0], uploads[-1]), nodes), request.receive
                )

    def _compare(
        self, models: tuple[ServedModel, ServedModel], uploads: tuple[bytes, bytes], nodes: Sequence[Node]
    ) -> Response:
        first, second = (self._decode(model, upload) for model, upload in zip(models, uploads, strict=True))
        found = compare((models[0].predictor, first), (models[1].predictor, second), nodes)
        answer = {
            "models": [
                {
                    "model": model.manifest.name,
                    "version": model.manifest.version,
                    "predictions": top_predictions(row, model.manifest.classes, default_top_k(model.manifest)),
                    "unmatched": unmatched,
                }
                for model, row, unmatched in zip(models, found.probabilities, found.unmatched, strict=True)
            ],
            "begins": found.begins or None,
            "layers": [asdict(layer) for layer in found.layers],
        }
        return json_response(answer)

    def _decode(self, model: ServedModel, upload: bytes) -> Pixels:
        return decode_upload(upload, model.manifest.input, self._settings.limit("image_limit_pixels"))


COMPARISON = Component(
    "Comparison",
    object_schema(
        models=described(
            "the first and the second run",
            array(
                object_schema(
                    model=TEXT,
                    version=FROM_1,
                    predictions=PREDICTIONS,
                    unmatched=described("layers that the other lacks, or has in another shape", array(TEXT)),
                ),
                minItems=2,
                maxItems=2,
            ),
        ),
        begins=described("the first layer that differs by more than rounding; null if none does", nullable(TEXT)),
        layers=array(
            object_schema(
                layer=TEXT,
                op=TEXT,
                shape=array(COUNT),
                maximum=described("largest absolute difference", nullable(NUMBER)),
                mean=described("mean absolute difference", nullable(NUMBER)),
                relative=described(
                    "L2 norm of the difference by that of the first; null if that is 0", nullable(NUMBER)
                ),
                cosine=described("of the angle between the two; null if one of them is 0", nullable(NUMBER)),
            )
        ),
    ),
)


def routes(context: ServerContext) -> list[Route]:
    """The route, with the limits that are set."""
    return [
        Route(
            "POST",
            "/v1/models/{model}/compare",
            CompareRoute(context).answer,
            as_json(COMPARISON),
            errors=(*UPLOAD, *LOOKUP, UnknownParameter, UnknownLayer, NotInspectable, TooManyValues),
            parameters=PARAMETERS,
            body=images_body(context.settings, most=2),
            description="Layers are matched by name and shape.",
            operation_id="compare",
        )
    ]
