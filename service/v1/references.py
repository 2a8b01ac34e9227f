"""GET /v1/models/{m}/layers/{n}/channels/{c}/references: the images of a data set that excite a channel most."""

import base64
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from models.images.decode import Pixels, to_pil
from service.context import ServerContext
from service.errors import NoReferences, QueueFull, UnknownLayer, UnknownParameter, UnknownUnit
from service.http.caching import etag_of, not_modified
from service.http.requests import choice, is_number, parse_query
from service.http.responses import json_response
from service.http.route import LOOKUP, Route, path_parameter, query_names, query_parameter
from service.inspection.references.index import ChannelReferences, Reference, ReferenceIndex, open_index
from service.inspection.references.normal import Normality
from service.inspection.tiles import encode_png
from service.openapi.schema import (
    BINARY,
    COUNT,
    FLAG,
    FROM_1,
    NAME,
    NUMBER,
    TEXT,
    Component,
    array,
    as_json,
    described,
    model_parameter,
    nullable,
    object_schema,
    one_of,
)
from service.serving.served_model import ServedModel
from service.v1.unit import BOX

FORMATS = ("json", "png")  # the first is the default
MOST_SIDE = 128  # pixels of an image in the answer; larger ones are shrunk
PARAMETERS = (
    model_parameter("model"),
    {**path_parameter("layer", NAME, description="a layer's name"), "example": "conv1"},
    {
        **path_parameter("channel", {"type": "integer", "minimum": 0}, description="a channel, from 0"),
        "example": 0,
    },
    query_parameter(
        "format", "`json`, or `png` for the crops side by side", {**one_of(*FORMATS), "default": FORMATS[0]}
    ),
)


class ReferencesRoute:
    """The route."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def answer(self, request: Request) -> Response:
        """Images that excite a channel most, and what is normal for it, from `convscope index`."""
        with self._context.deadline.limit():
            values = parse_query(request.scope["query_string"], query_names(PARAMETERS))
            form = choice(values, "format", FORMATS)
            model = await self._context.find(request.path_params["model"])
            layer, channel = request.path_params["layer"], request.path_params["channel"]
            if not is_number(channel):
                raise UnknownUnit(f"{layer} has no channel {channel[:40]!r}; channels are whole numbers from 0")
            index = open_index(model.predictor)
            etag = etag_of(index.sha256, layer, int(channel), form)
            if unchanged := not_modified(request, etag):
                return unchanged
            answer = await self._context.inspection_queue.run(lambda: _answered(model, index, layer, channel, form))
            answer.headers["etag"] = etag
            return answer


def _answered(model: ServedModel, index: ReferenceIndex, layer: str, channel: str, form: str) -> Response:
    found = index.channel(layer, int(channel))
    if form == "png":
        return Response(found._repr_png_(), media_type="image/png")
    return json_response(_described(model, index, found))


def _described(model: ServedModel, index: ReferenceIndex, found: ChannelReferences) -> dict[str, Any]:
    classes = model.manifest.classes
    return {
        "model": model.manifest.name,
        "version": model.manifest.version,
        "layer": found.layer,
        "channel": found.channel,
        "data": data_of(index),
        "normal": {"mean": found.mean, "std": found.std, "low": found.low, "high": found.high},
        "response": found.response,
        "classes": [
            {"label": label, "index": number, "response": response} for number, label, response in found.classes
        ],
        "references": [_row(one, classes) for one in found.references],
    }


def _row(one: Reference, classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "largest": one.largest,
        "position": one.position,
        "image": one.image,
        "name": one.name,
        "label": classes[one.label],
        "predicted": classes[one.predicted],
        "receptive_field": one.box and asdict(one.box),
        "crop": _png(one.crop),
        "picture": _png(one.picture),
    }


def _png(pixels: Pixels) -> str:
    picture = to_pil(pixels)
    picture.thumbnail((MOST_SIDE, MOST_SIDE))
    return base64.b64encode(encode_png(picture)).decode()


def data_of(index: ReferenceIndex) -> dict[str, Any]:
    """The data set that an index was made of, as `DATA` describes."""
    return {"name": index.dataset, "split": index.split, "images": index.images}


def normality_of(found: Normality) -> dict[str, Any]:
    """How far a layer lies outside of what is normal, as `NORMALITY` describes."""
    return {
        "distance": found.distance,
        "limit": found.limit,
        "nearer": found.nearer,
        "unusual": found.unusual,
        "channels": [asdict(one) for one in found.channels],
    }


_SHRUNK = f"shrunk to {MOST_SIDE} pixels a side if it is larger"
_PNG = {"contentMediaType": "image/png", "contentEncoding": "base64", **TEXT}
DATA = Component(
    "ReferenceData",
    object_schema(name=TEXT, split=one_of("test", "train"), images=described("that were indexed", FROM_1)),
)
_NORMALITY = {
    "distance": described(
        "Mahalanobis distance of the channels' means from those of the indexed images; 1 is typical", NUMBER
    ),
    "limit": described("distance that 99 % of indexed images stay within", NUMBER),
    "nearer": described("share of indexed images that are nearer", NUMBER),
    "unusual": described("the distance is beyond the limit", FLAG),
    "channels": described(
        "those furthest from their mean over the indexed images, in standard deviations",
        array(object_schema(channel=COUNT, mean=NUMBER, normal_mean=NUMBER, normal_std=NUMBER)),
    ),
}
NORMALITY = Component("Normality", object_schema(**_NORMALITY))
LAYER_NORMALITY = Component("LayerNormality", object_schema(layer=TEXT, **_NORMALITY))
REFERENCES = Component(
    "References",
    object_schema(
        model=TEXT,
        version=FROM_1,
        layer=TEXT,
        channel=COUNT,
        data=DATA,
        normal=described(
            "the channel's mean over its places, over the indexed images: mean, standard deviation, and the quantiles "
            "0.5 % and 99.5 %",
            object_schema(mean=NUMBER, std=NUMBER, low=NUMBER, high=NUMBER),
        ),
        response=described("the channel's largest value, mean over the indexed images", NUMBER),
        classes=described(
            "that it responds to most, by the same mean over a class's images",
            array(object_schema(label=TEXT, index=COUNT, response=NUMBER)),
        ),
        references=described(
            "images with the channel's largest values, the largest first",
            array(
                object_schema(
                    largest=NUMBER,
                    position=described("row and column of that value; null without a grid", nullable(array(COUNT))),
                    image=described("its index in the split", COUNT),
                    name=described("of its file; empty if the data set has none", TEXT),
                    label=TEXT,
                    predicted=TEXT,
                    receptive_field=described(
                        "pixels of the input that can influence the value, padding included; null where that is the "
                        "whole input or unknown",
                        nullable(BOX),
                    ),
                    crop=described(f"the part of the image in the receptive field, {_SHRUNK}", _PNG),
                    picture=described(f"the whole image as the network takes it, {_SHRUNK}", _PNG),
                )
            ),
        ),
    ),
)


def routes(context: ServerContext) -> list[Route]:
    """The route."""
    return [
        Route(
            "GET",
            "/v1/models/{model}/layers/{layer}/channels/{channel}/references",
            ReferencesRoute(context).answer,
            {**as_json(REFERENCES), "image/png": {"schema": BINARY}},
            errors=(*LOOKUP, QueueFull, UnknownParameter, UnknownLayer, UnknownUnit, NoReferences),
            parameters=PARAMETERS,
            cached=True,
            operation_id="get_references",
        )
    ]
