"""POST /v1/models/{m}/feature-maps: the values of layers for one image, as numbers or pictures."""

import asyncio
import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response

from export.predictor import default_top_k, top_predictions
from models.graph.node import Node
from models.images.decode import Floats, Pixels
from models.images.errors import ImageError
from service.context import ServerContext
from service.errors import NotInspectable, TooManyValues, UnknownLayer, UnknownParameter
from service.http.disconnect import cancel_on_disconnect
from service.http.requests import choice, parse_query
from service.http.route import LOOKUP, UPLOAD, Route, query_names, query_parameter
from service.inspection.feature_maps import FeatureMaps, check_size, inspect_image, select_nodes
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
    model_parameter,
    object_schema,
    one_of,
)
from service.serving.decode_pool import decode_or_error
from service.serving.served_model import ServedModel
from service.settings import Limit
from service.v1.classify import PREDICTIONS, images_body

FORMATS, VALUES = ("json", "npz", "png"), ("numbers", "tiles")  # the first is the default
PARAMETERS = (
    model_parameter("model"),
    query_parameter(
        "layers",
        "names or globs (`conv*`), also several with commas between them; all layers if left out",
        array(TEXT),
    ),
    query_parameter(
        "format",
        "`json`, `npz` for numpy, or `png` for a sheet of pictures",
        {**one_of(*FORMATS), "default": FORMATS[0]},
    ),
    query_parameter(
        "values",
        "in JSON: numbers, or a picture of every layer's channels",
        {**one_of(*VALUES), "default": VALUES[0]},
    ),
)


class FeatureMapsRoute:
    """The route.

    Inspections run one after another, so that classification does not wait for them.
    """

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._settings = context.settings

    async def answer(self, request: Request) -> Response:
        """Feature maps of one image, of every layer of the served file."""
        async with asyncio.timeout(self._settings.deadline_s):
            return await self._answered(request)

    async def _answered(self, request: Request) -> Response:
        values = parse_query(request.scope["query_string"], query_names(PARAMETERS))
        model = await self._context.find(request.path_params["model"])
        form = choice(values, "format", FORMATS)
        kind = choice(values, "values", VALUES)
        patterns = [name for part in values.get("layers", ["*"]) for name in part.split(",") if name]
        nodes = select_nodes(model.predictor, patterns or ["*"])
        check_size(nodes, self._settings.limit("inspection_limit_values"), "choose some with ?layers=")
        if form == "json" and kind == "numbers":
            advice = "choose some with ?layers=, or take format=npz or values=tiles"
            check_size(nodes, self._settings.limit("inspection_limit_json_values"), advice)
        streams = request.scope, request.receive
        async with self._context.body_reader.images(*streams, limit_images=Limit(1)) as (upload,):
            inspecting = self._context.inspection_queue.run(lambda: self._inspect(model, upload, nodes, form, kind))
            return await cancel_on_disconnect(asyncio.ensure_future(inspecting), request.receive)

    def _inspect(self, model: ServedModel, upload: bytes, nodes: Sequence[Node], form: str, kind: str) -> Response:
        image = decode_or_error(upload, model.manifest.input, self._settings.limit("image_limit_pixels"))
        if isinstance(image, ImageError):
            raise image
        maps = inspect_image(model.predictor, image, nodes)
        if form == "npz":
            return _npz(maps)
        if form == "png":
            return Response(encode_png(draw_sheet(_title(model, maps), image, maps.layers)), media_type="image/png")
        return _json(model, maps, image, tiles=kind == "tiles")


def _npz(maps: FeatureMaps) -> Response:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {node.name: value for node, value in maps.layers}
    np.savez(buffer, **{"probabilities": maps.probabilities, **arrays})
    return Response(buffer.getvalue(), media_type="application/x-npz")


def _json(model: ServedModel, maps: FeatureMaps, image: Pixels, *, tiles: bool) -> Response:
    manifest = model.manifest
    layers = []
    for node, value in maps.layers:
        layer: dict[str, Any] = {
            "name": node.name,
            "op": node.op,
            "shape": node.shape,
            "minimum": float(value.min()),
            "maximum": float(value.max()),
            "mean": float(value.mean()),
        }
        if tiles:
            layer["tiles"] = _tiles(value)
        if not tiles or value.size == value.shape[0]:  # vectors, and maps of one pixel
            layer["values"] = np.ascontiguousarray(value)
        layers.append(layer)
    answer = {
        "model": manifest.name,
        "version": manifest.version,
        "file": maps.file,
        "served": {"file": model.engine.file, "maximum_difference": maps.served_difference},
        "predictions": top_predictions(maps.probabilities, manifest.classes, default_top_k(manifest)),
        "layers": layers,
    }
    if tiles:
        answer["image"] = _tiles(image.astype(np.float32).transpose(2, 0, 1), limits=(0, 255))
    return Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def _tiles(value: Floats, *, limits: tuple[float, float] | None = None) -> dict[str, Any]:
    tiles = make_tiles(value, limits=limits)
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
LAYER = Component(
    "Layer",
    object_schema(
        {
            "values": described("nested as `shape` says; with tiles, only where each map is one number", array({})),
            "tiles": described("with values=tiles", TILES),
        },
        name=TEXT,
        op=TEXT,
        shape=array(COUNT),
        minimum=NUMBER,
        maximum=NUMBER,
        mean=NUMBER,
    ),
)
FEATURE_MAPS = Component(
    "FeatureMaps",
    object_schema(
        {"image": described("as the network sees it; with values=tiles", TILES)},
        model=TEXT,
        version=FROM_1,
        file=described("the file that was run", TEXT),
        served=object_schema(file=TEXT, maximum_difference=described("of its probabilities to these", NUMBER)),
        predictions=PREDICTIONS,
        layers=array(LAYER),
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
        )
    ]
