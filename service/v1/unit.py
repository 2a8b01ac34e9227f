"""POST /v1/models/{m}/unit: one number inside the served network, and the arithmetic that makes it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple
from typing import Any, get_args

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from models.graph.receptive_field import Box
from models.images.geometry import to_picture
from service.context import ServerContext
from service.errors import NotInspectable, TooManyValues, UnknownLayer, UnknownParameter, UnknownUnit
from service.http.requests import is_number, number, parse_query, single
from service.http.responses import json_response
from service.http.route import LOOKUP, UPLOAD, Route, query_names, query_parameter
from service.inspection.arithmetic.terms import Kind, Source, Terms
from service.inspection.units import Unit, extractor_of, inspect_unit
from service.openapi.schema import (
    COUNT,
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
from service.settings import Limit
from service.v1.images_body import images_body

_PLACES = ("channel", "y", "x")
PARAMETERS = (
    model_parameter("model"),
    {
        **query_parameter(
            "layer",
            "a layer's name; `input` for the normalised image, `image` for its pixels, `probabilities`, or the "
            "`source` of a term, such as `LAYER:VALUE` for a value inside a layer",
            {**TEXT, "minLength": 1},
        ),
        "required": True,
        "example": "conv1",
    },
    *(
        query_parameter(name, f"the unit's {what} in its feature map, from 0", integer_text(least=0))
        for name, what in zip(_PLACES, ("channel", "row", "column"), strict=True)
    ),
    {
        **query_parameter(
            "index",
            "the unit's position instead of `channel`, `y` and `x`: `7` in a vector, `2,0,5` in a feature map",
            {**TEXT, "pattern": "^[0-9]{1,9}(,[0-9]{1,9})*$"},
        ),
        "example": "2,0,5",
    },
)


class UnitRoute:
    """The route. It takes its turn among the inspections."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._settings = context.settings

    async def answer(self, request: Request) -> Response:
        """Arithmetic of one unit: inputs, weights, products, bias, and the served value beside the result."""
        with self._context.deadline.limit():
            values = parse_query(request.scope["query_string"], query_names(PARAMETERS))
            model = await self._context.find(request.path_params["model"])
            layer = single(values, "layer")
            if layer is None:
                raise UnknownParameter("layer is missing; GET /v1/models/{model} lists the layers")
            index = read_index(values)
            streams = request.scope, request.receive
            async with self._context.body_reader.images(*streams, limit_images=Limit(1)) as (upload,):
                return await self._context.inspect(lambda: self._inspect(model, upload, layer, index), request.receive)

    def _inspect(self, model: ServedModel, upload: bytes, layer: str, index: Sequence[int]) -> Response:
        limit_pixels = self._settings.limit("image_limit_pixels")
        image = decode_upload(upload, model.manifest.input, limit_pixels)
        unit = inspect_unit(model.predictor, image, layer, index)
        check_size(unit, self._settings.limit("inspection_limit_json_values"))
        size = model.predictor.picture_size(upload, limit_pixels=limit_pixels.value)
        picture = unit.clipped and Box(*to_picture(model.manifest.input, size, astuple(unit.clipped)))
        return json_response(
            {
                "model": model.manifest.name,
                "version": model.manifest.version,
                "file": extractor_of(model.predictor).file,
                **unit_json(unit, picture),
            }
        )


def read_index(values: Mapping[str, Sequence[str]]) -> tuple[int, ...]:
    """The position that a query asks for.

    Raises:
        UnknownParameter: a number that is none.
        UnknownUnit: no position, a part of one, or two.
    """
    places = [number(values, name, least=0, most=999_999_999) for name in _PLACES]
    index = single(values, "index")
    given = [place for place in places if place is not None]
    if index is None and len(given) == len(places):
        return tuple(given)
    if index is None or given:
        raise UnknownUnit("no unit is named; give channel, y and x, or index")
    parts = index.split(",")
    if not all(is_number(part) for part in parts):
        raise UnknownParameter(f"index is {index[:20]!r}; wanted whole numbers with commas between them")
    return tuple(map(int, parts))


def check_size(unit: Unit, limit: Limit) -> None:
    """Raises TooManyValues if the terms hold more numbers than an answer in JSON may."""
    count = sum(terms.values.size * (1 if terms.weights is None else 3) for terms in unit.arithmetic.terms)
    if count > limit.value:
        raise TooManyValues(f"the arithmetic of this unit has {count} numbers; the limit is {limit}")


def unit_json(unit: Unit, picture: Box | None) -> dict[str, Any]:
    """The answer's own members. Numbers that are not finite become null in JSON."""
    arithmetic = unit.arithmetic
    return {
        "layer": unit.layer,
        "op": unit.op,
        "operators": unit.operators,
        "shape": unit.shape,
        "index": unit.index,
        "kind": arithmetic.kind,
        "formula": arithmetic.formula,
        "details": arithmetic.details,
        "terms": [_terms(one) for one in arithmetic.terms],
        "bias": arithmetic.bias,
        "value": arithmetic.value,
        "served": unit.served,
        "difference": unit.difference,
        "largest": unit.largest,
        "inputs": [{"source": source, "shape": shape} for source, shape in unit.inputs],
        "receptive_field": unit.receptive_field
        and {
            "whole": asdict(unit.receptive_field),
            "clipped": unit.clipped and asdict(unit.clipped),
            "picture": picture and asdict(picture),
        },
        "following": [asdict(one) for one in unit.following],
    }


def _terms(terms: Terms) -> dict[str, Any]:
    found: dict[str, Any] = {**_source(terms.source), "values": np.ascontiguousarray(terms.values)}
    if (products := terms.products) is not None and terms.weights is not None:
        found["weights"] = np.ascontiguousarray(terms.weights)
        found["products"] = np.ascontiguousarray(products)
        if products.ndim == 3:
            found["channel_sums"] = products.sum(axis=(1, 2))
    if terms.padding is not None:
        found["padding"] = terms.padding.tolist()
    if terms.weights_source is not None:
        found["weights_source"] = _source(terms.weights_source)
    return found


def _source(source: Source) -> dict[str, Any]:
    return {"source": source.value, "axes": source.axes}


_ARRAY = {"type": ["array", "number"], "items": {}}
_AXES = described(
    "for each axis of the source, the positions along it; those outside of it are padding",
    array(array({"type": "integer"})),
)
_INTEGER = {"type": "integer"}
BOX = object_schema(top=_INTEGER, left=_INTEGER, bottom=_INTEGER, right=_INTEGER)
TERMS = Component(
    "UnitTerms",
    object_schema(
        {
            "weights": described("what each value is multiplied by", _ARRAY),
            "products": described("values times weights", _ARRAY),
            "channel_sums": described("of the products of each input channel", array(NUMBER)),
            "padding": described("true where a position is outside of the source", _ARRAY),
            "weights_source": described(
                "where the weights come from, if they depend on the image too", object_schema(source=TEXT, axes=_AXES)
            ),
        },
        source=described("the layer that the values are of; take it as `layer` to walk on", TEXT),
        axes=_AXES,
        values=described("the values at every combination of the positions, nested as `axes` says", _ARRAY),
    ),
)
UNIT = Component(
    "Unit",
    object_schema(
        model=TEXT,
        version=FROM_1,
        file=described("the file that was run and whose weights these are", TEXT),
        layer=TEXT,
        op=described("the layer's class or function", TEXT),
        operators=described("ONNX operators, the last first", array(TEXT)),
        shape=array(COUNT),
        index=array(COUNT),
        kind=described(
            "`unknown` where the arithmetic of the operator is not known",
            one_of(*get_args(Kind)),
        ),
        formula=TEXT,
        details=described(
            "further numbers of the formula", {"type": "object", "additionalProperties": nullable(NUMBER)}
        ),
        terms=array(TERMS),
        bias=nullable(NUMBER),
        value=described("result of the arithmetic, in double precision", nullable(NUMBER)),
        served=described("the same value as the file computed it", nullable(NUMBER)),
        difference=described("between the two", nullable(NUMBER)),
        largest=described("largest absolute value of the whole layer", nullable(NUMBER)),
        inputs=described("everything that the operators read", array(object_schema(source=TEXT, shape=array(COUNT)))),
        receptive_field=described(
            "null where it is the whole image or unknown; `whole` and `clipped` in pixels of the network's input, "
            "`picture` in those of the picture that was sent, turned as its EXIF orientation says",
            nullable(object_schema(whole=BOX, clipped=BOX, picture=BOX)),
        ),
        following=described(
            "layers after it that work on single elements, with their value at this position",
            array(object_schema(layer=TEXT, op=TEXT, value=nullable(NUMBER))),
        ),
    ),
)


def routes(context: ServerContext) -> list[Route]:
    """The route, with the limits that are set."""
    settings = context.settings
    return [
        Route(
            "POST",
            "/v1/models/{model}/unit",
            UnitRoute(context).answer,
            as_json(UNIT),
            errors=(*UPLOAD, *LOOKUP, UnknownParameter, UnknownLayer, UnknownUnit, NotInspectable, TooManyValues),
            parameters=PARAMETERS,
            body=images_body(settings, most=1),
            description="A unit is one element of one layer's value. `value` is the sum of all `products` and the "
            "`bias` for the kinds weighted_sum, product, maximum, minimum and copy, and `formula` for the others.",
            operation_id="inspect_unit",
        )
    ]
