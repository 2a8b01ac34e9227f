"""POST /v1/models/{m}/feature-maps: the values of layers for one image, as numbers or pictures."""

import base64
import io
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from export.predictor import default_top_k, top_predictions
from models.graph.node import Node
from models.images.decode import Floats
from service.context import ServerContext
from service.errors import NotInspectable, TooManyValues, UnknownLayer, UnknownParameter
from service.http.requests import listed, parse_query
from service.http.responses import json_response
from service.http.route import LOOKUP, UPLOAD, Route, query_names
from service.inspection.channels import (
    BINS,
    EVERYTHING,
    Statistics,
    check_selection,
)
from service.inspection.chosen_channels import (
    ChosenChannels,
    check_contributions,
    choose_channels,
    layer_contributions,
)
from service.inspection.explain.explanation import class_index
from service.inspection.explain.watch import Watch
from service.inspection.feature_maps import FeatureMaps, inspect_image, select_nodes
from service.inspection.references.index import find_index
from service.inspection.tiles import draw_sheet, encode_png, make_tiles
from service.openapi.schema import (
    BINARY,
    COUNT,
    FROM_1,
    NUMBER,
    TEXT,
    Component,
    array,
    as_json,
    described,
    object_schema,
)
from service.serving.decode_pool import decode_upload
from service.serving.served_model import ServedModel
from service.settings import Limit
from service.v1.classify import PREDICTIONS
from service.v1.feature_maps_query import PARAMETERS, Query
from service.v1.images_body import images_body
from service.v1.references import DATA, NORMALITY, data_of, normality_of


class FeatureMapsRoute:
    """The route.

    Inspections run one after another, so that classification does not wait for them.
    """

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._settings = context.settings

    async def answer(self, request: Request) -> Response:
        """Feature maps of one image, of every layer of the served file."""
        with self._context.deadline.limit():
            return await self._answered(request)

    async def _answered(self, request: Request) -> Response:
        values = parse_query(request.scope["query_string"], query_names(PARAMETERS))
        model = await self._context.find(request.path_params["model"])
        query, spec = Query.of(values), model.manifest.input
        nodes = select_nodes(model.predictor, listed(values, "layers") or ["*"])
        check_selection(nodes, spec, query.selection, self._settings.limit("inspection_limit_values"))
        if query.form == "json" and query.kind == "numbers":
            limit, advice = self._settings.limit("inspection_limit_json_values"), ""
            if query.selection == EVERYTHING:
                advice = "choose some with ?layers= or ?top=, or take format=npz, values=tiles or values=uint8"
            check_selection(nodes, spec, query.selection, limit, advice)
        index = None if query.class_name is None else class_index(model.manifest.classes, query.class_name)
        if query.selection.rank == "contribution":
            check_contributions(nodes, spec)
        stopped = threading.Event()
        watch = Watch(cancelled=stopped.is_set)
        streams = request.scope, request.receive
        async with self._context.body_reader.images(*streams, limit_images=Limit(1)) as (upload,):
            try:
                return await self._context.inspect(
                    lambda: self._inspect(model, upload, nodes, query, index, watch), request.receive
                )
            finally:
                stopped.set()

    def _inspect(
        self,
        model: ServedModel,
        upload: bytes,
        nodes: Sequence[Node],
        query: Query,
        index: int | None,
        watch: Watch,
    ) -> Response:
        spec = model.manifest.input
        image = decode_upload(upload, spec, self._settings.limit("image_limit_pixels"))
        maps = inspect_image(model.predictor, image, nodes)
        ranked: list[Floats] = []
        if query.selection.rank == "contribution":
            ranked, index = layer_contributions(model.predictor, image, nodes, index, watch)
        chosen = choose_channels(maps, spec, query.selection, query.scale, ranked)
        if query.form == "npz":
            return _npz(maps, chosen, query)
        if query.form == "png":
            layers = [(one.node, one.maps) for one in chosen]
            sheet = draw_sheet(_title(model, maps), image, layers, limits=[(one.low, one.high) for one in chosen])
            return Response(encode_png(sheet), media_type="image/png")
        answer = _json(model, maps, chosen, query)
        if query.kind == "tiles":
            pixels = image.astype(np.float32).transpose(2, 0, 1)
            answer["image"] = _tiles(pixels, np.zeros(len(pixels), np.float32), np.full(len(pixels), 255, np.float32))
        if index is not None:
            answer["class"] = {"label": model.manifest.classes[index], "index": index}
        return json_response(answer)


def _npz(maps: FeatureMaps, chosen: Sequence[ChosenChannels], query: Query) -> Response:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"probabilities": maps.probabilities}
    for one in chosen:
        name = one.node.name
        if query.selection != EVERYTHING:
            arrays[f"{name}/channels"] = one.channels
        if one.contributions is not None:
            arrays[f"{name}/contributions"] = one.contributions
        if query.kind == "uint8":
            arrays |= {name: one.to_bytes(), f"{name}/low": one.low, f"{name}/high": one.high}
        else:
            arrays[name] = one.values
    np.savez(buffer, **arrays)
    return Response(buffer.getvalue(), media_type="application/x-npz")


def _json(model: ServedModel, maps: FeatureMaps, chosen: Sequence[ChosenChannels], query: Query) -> dict[str, Any]:
    manifest, references = model.manifest, find_index(model.predictor)
    layers = [_layer(one, query) for one in chosen]
    if references:
        for layer, normality in zip(layers, references.normality(maps.layers), strict=True):
            layer["normality"] = normality and normality_of(normality)
    return {
        "model": manifest.name,
        "version": manifest.version,
        "file": maps.file,
        "served": {"file": model.engine.file, "maximum_difference": maps.served_difference},
        "predictions": top_predictions(maps.probabilities, manifest.classes, default_top_k(manifest)),
        "layers": layers,
        "references": references and data_of(references),
    }


def _layer(one: ChosenChannels, query: Query) -> dict[str, Any]:
    layer: dict[str, Any] = {
        "name": one.node.name,
        "op": one.node.op,
        "shape": one.node.shape,
        "channel_axis": one.axis,
        "minimum": float(one.whole.min()),
        "maximum": float(one.whole.max()),
        "mean": float(one.whole.mean()),
    }
    if query.selection != EVERYTHING:
        layer["channels"] = one.channels
    if one.contributions is not None:
        layer["contributions"] = one.contributions
    if query.statistics:
        layer["statistics"] = asdict(Statistics.of(one.whole))
    if query.kind == "uint8":
        content = one.to_bytes()
        layer["bytes"] = {
            "shape": content.shape,
            "data": base64.b64encode(content.tobytes()).decode(),
            "low": np.ascontiguousarray(one.low),
            "high": np.ascontiguousarray(one.high),
        }
    if query.kind == "tiles":
        layer["tiles"] = _tiles(one.maps, one.low, one.high)
    if query.kind == "numbers" or (query.kind == "tiles" and one.values.size == len(one.channels)):
        layer["values"] = np.ascontiguousarray(one.values)  # vectors and maps of one pixel beside their tiles, too
    return layer


def _tiles(value: Floats, low: Floats, high: Floats) -> dict[str, Any]:
    tiles = make_tiles(value, limits=(low, high))
    return {
        "png": base64.b64encode(tiles.to_png()).decode(),
        "columns": tiles.columns,
        "rows": tiles.rows,
        "tile_height": tiles.tile_height,
        "tile_width": tiles.tile_width,
    }


def _title(model: ServedModel, maps: FeatureMaps) -> str:
    best = top_predictions(maps.probabilities, model.manifest.classes, 1)[0]
    return f"{model.manifest.name}:{model.manifest.version} says {best['label']} ({best['probability']:.1%})"


TILES = Component(
    "Tiles",
    object_schema(
        png={
            "description": "the channels in a grid, black at the minimum",
            "contentMediaType": "image/png",
            "contentEncoding": "base64",
            **TEXT,
        },
        columns=FROM_1,
        rows=FROM_1,
        tile_height=FROM_1,
        tile_width=FROM_1,
    ),
)
BYTES = Component(
    "Bytes",
    object_schema(
        shape=array(COUNT),
        data={
            "description": "a byte for each number, in C order: low + byte / 255 * (high - low), within half a step",
            "contentEncoding": "base64",
            **TEXT,
        },
        low=described("of each channel", array(NUMBER)),
        high=described("of each channel", array(NUMBER)),
    ),
)
STATISTICS_OF_LAYER = Component(
    "LayerStatistics",
    object_schema(
        mean=NUMBER,
        std=NUMBER,
        minimum=NUMBER,
        maximum=NUMBER,
        zeros=described("share of numbers that are exactly 0", NUMBER),
        dead=described("channels that are 0 everywhere", array(COUNT)),
        histogram=described(f"counts in {BINS} equal bins from the minimum to the maximum", array(COUNT)),
        channels=described(
            "mean, standard deviation, minimum, maximum and share of zeros of each channel", array(array(NUMBER))
        ),
    ),
)
LAYER = Component(
    "Layer",
    object_schema(
        {
            "values": described(
                "nested as `shape` says, of the channels chosen; with tiles, only where each map is one number",
                array({}),
            ),
            "tiles": described("with values=tiles", TILES),
            "bytes": described("with values=uint8", BYTES),
            "channels": described("those that were chosen, with `channels` or `top`, in this order", array(COUNT)),
            "contributions": described("of the chosen channels, with rank=contribution", array(NUMBER)),
            "statistics": described("with statistics=true", STATISTICS_OF_LAYER),
            "normality": described(
                "beside those of reference images, if the artifact has them; null for a layer that they lack",
                {"oneOf": [NORMALITY, {"type": "null"}]},
            ),
        },
        name=TEXT,
        op=TEXT,
        shape=array(COUNT),
        channel_axis=described("the axis of the channels in `shape`", COUNT),
        minimum=NUMBER,
        maximum=NUMBER,
        mean=NUMBER,
    ),
)
FEATURE_MAPS = Component(
    "FeatureMaps",
    object_schema(
        {
            "image": described("as the network sees it; with values=tiles", TILES),
            "class": described("that channels were ranked for", object_schema(label=TEXT, index=COUNT)),
        },
        model=TEXT,
        version=FROM_1,
        file=described("the file that was run", TEXT),
        served=object_schema(file=TEXT, maximum_difference=described("of its probabilities to these", NUMBER)),
        predictions=PREDICTIONS,
        layers=array(LAYER),
        references=described(
            "the data that `normality` compares with; null if the artifact has no usable reference images",
            {"oneOf": [DATA, {"type": "null"}]},
        ),
    ),
)


def routes(context: ServerContext) -> list[Route]:
    """The route, with the limits that are set."""
    settings = context.settings
    return [
        Route(
            "POST",
            "/v1/models/{model}/feature-maps",
            FeatureMapsRoute(context).answer,
            {
                **as_json(FEATURE_MAPS),
                "application/x-npz": {"schema": BINARY},
                "image/png": {"schema": BINARY},
            },
            errors=(*UPLOAD, *LOOKUP, UnknownParameter, UnknownLayer, NotInspectable, TooManyValues),
            parameters=PARAMETERS,
            body=images_body(settings, most=1),
            description=f"An answer has up to {settings.inspection_limit_values} values, and up to "
            f"{settings.inspection_limit_json_values} as numbers in JSON.",
            operation_id="get_feature_maps",
        )
    ]
