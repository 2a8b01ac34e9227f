"""POST /v1/models/{m}/feature-maps: the values of layers for one image, as numbers or pictures."""

import asyncio
import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.requests import Request
from starlette.responses import Response

from export.predictor import default_top_k, top_predictions
from models.graph.node import Node
from models.images.decode import Floats, Pixels
from service.context import ServerContext
from service.errors import NotInspectable, TooManyValues, UnknownLayer, UnknownParameter
from service.http.requests import choice, listed, number, parse_query, single
from service.http.responses import json_response
from service.http.route import LOOKUP, UPLOAD, Route, query_names, query_parameter
from service.inspection.channels import (
    BINS,
    EVERYTHING,
    RANKS,
    SCALES,
    Scale,
    Selection,
    Statistics,
    check_size,
    parse_channels,
    ranges,
    to_bytes,
)
from service.inspection.feature_maps import FeatureMaps, inspect_image, select_nodes
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
    integer_text,
    model_parameter,
    object_schema,
    one_of,
)
from service.serving.decode_pool import decode_upload
from service.serving.served_model import ServedModel
from service.settings import Limit
from service.v1.classify import PREDICTIONS, images_body

Range = tuple[Floats, Floats]
Indices = npt.NDArray[np.int64]

CHANNELS = "^[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*$"
FORMATS, VALUES = ("json", "npz", "png"), ("numbers", "tiles", "uint8")  # the first is the default
STATISTICS = ("false", "true")
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
        "numbers; `tiles`, in JSON, a picture of every layer's channels; or `uint8`, a byte for each number",
        {**one_of(*VALUES), "default": VALUES[0]},
    ),
    query_parameter(
        "scale",
        "what becomes black and white, or 0 and 255: the smallest and largest number of each `layer`, of each "
        "`channel`, of all layers together (`global`), or 0 and 1 (`none`)",
        {**one_of(*SCALES), "default": SCALES[0]},
    ),
    query_parameter(
        "channels",
        "channels of every layer by index, such as `0-7,12`; all if left out",
        {**TEXT, "pattern": CHANNELS, "maxLength": 200},
    ),
    query_parameter("top", "the number of channels of each layer that rank highest", integer_text(least=1)),
    query_parameter(
        "rank",
        "what channels are ranked by: their mean, largest number or L2 norm",
        {**one_of(*RANKS), "default": RANKS[0]},
    ),
    query_parameter(
        "statistics",
        "in JSON: mean, standard deviation, share of zeros, dead channels and a histogram of each layer",
        {**one_of(*STATISTICS), "default": STATISTICS[0]},
    ),
)


@dataclass(frozen=True)
class Query:
    """What a request wants to see.

    Attributes:
        form: one of `FORMATS`.
        kind: one of `VALUES`.
        scale: see `ranges`.
        selection: of channels.
        statistics: measure each layer, in JSON.
    """

    form: str
    kind: str
    scale: Scale
    selection: Selection
    statistics: bool

    @classmethod
    def of(cls, values: Mapping[str, Sequence[str]]) -> "Query":
        """Reads the query's parameters but for `layers`.

        Raises:
            UnknownParameter: a value that a parameter cannot have, or `channels` beside `top`.
        """
        channels = single(values, "channels")
        top = number(values, "top", least=1, most=999_999_999)
        rank = choice(values, "rank", RANKS)
        if channels is not None and top is not None:
            raise UnknownParameter("give either channels or top")
        if "rank" in values and top is None:
            raise UnknownParameter("rank goes with top, which is missing")
        selection = Selection(None if channels is None else parse_channels(channels), top, rank)
        form, kind = choice(values, "format", FORMATS), choice(values, "values", VALUES)
        return cls(form, kind, choice(values, "scale", SCALES), selection, single(values, "statistics") == "true")


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
        choice(values, "statistics", STATISTICS)
        query = Query.of(values)
        nodes = select_nodes(model.predictor, listed(values, "layers") or ["*"])
        check_size(nodes, self._settings.limit("inspection_limit_values"), selection=query.selection)
        if query.form == "json" and query.kind == "numbers":
            limit, advice = self._settings.limit("inspection_limit_json_values"), ""
            if query.selection == EVERYTHING:
                advice = "choose some with ?layers= or ?top=, or take format=npz, values=tiles or values=uint8"
            check_size(nodes, limit, advice, selection=query.selection)
        streams = request.scope, request.receive
        async with self._context.body_reader.images(*streams, limit_images=Limit(1)) as (upload,):
            return await self._context.inspect(lambda: self._inspect(model, upload, nodes, query), request.receive)

    def _inspect(self, model: ServedModel, upload: bytes, nodes: Sequence[Node], query: Query) -> Response:
        image = decode_upload(upload, model.manifest.input, self._settings.limit("image_limit_pixels"))
        maps = inspect_image(model.predictor, image, nodes)
        chosen = [query.selection.of(value) for _, value in maps.layers]
        picked = [value[channels] for (_, value), channels in zip(maps.layers, chosen, strict=True)]
        limits = ranges(picked, query.scale)
        if query.form == "npz":
            return _npz(maps, chosen, picked, limits, query)
        if query.form == "png":
            layers = [(node, value) for (node, _), value in zip(maps.layers, picked, strict=True)]
            sheet = draw_sheet(_title(model, maps), image, layers, limits=limits)
            return Response(encode_png(sheet), media_type="image/png")
        return _json(model, maps, image, chosen, picked, limits, query)


def _npz(
    maps: FeatureMaps, chosen: Sequence[Indices], picked: Sequence[Floats], limits: Sequence[Range], query: Query
) -> Response:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"probabilities": maps.probabilities}
    for (node, _), channels, value, (low, high) in zip(maps.layers, chosen, picked, limits, strict=True):
        if query.selection != EVERYTHING:
            arrays[f"{node.name}/channels"] = channels
        if query.kind == "uint8":
            arrays |= {node.name: to_bytes(value, low, high), f"{node.name}/low": low, f"{node.name}/high": high}
        else:
            arrays[node.name] = value
    np.savez(buffer, **arrays)
    return Response(buffer.getvalue(), media_type="application/x-npz")


def _json(
    model: ServedModel,
    maps: FeatureMaps,
    image: Pixels,
    chosen: Sequence[Indices],
    picked: Sequence[Floats],
    limits: Sequence[Range],
    query: Query,
) -> Response:
    manifest = model.manifest
    layers = []
    for (node, whole), channels, value, limit in zip(maps.layers, chosen, picked, limits, strict=True):
        layer: dict[str, Any] = {
            "name": node.name,
            "op": node.op,
            "shape": node.shape,
            "minimum": float(whole.min()),
            "maximum": float(whole.max()),
            "mean": float(whole.mean()),
        }
        if query.selection != EVERYTHING:
            layer["channels"] = channels
        if query.statistics:
            layer["statistics"] = asdict(Statistics.of(whole))
        if query.kind == "uint8":
            layer["bytes"] = _bytes(value, *limit)
        if query.kind == "tiles":
            layer["tiles"] = _tiles(value, limit)
        if query.kind == "numbers" or (query.kind == "tiles" and value.size == value.shape[0]):
            layer["values"] = np.ascontiguousarray(value)  # vectors and maps of one pixel beside their tiles, too
        layers.append(layer)
    answer = {
        "model": manifest.name,
        "version": manifest.version,
        "file": maps.file,
        "served": {"file": model.engine.file, "maximum_difference": maps.served_difference},
        "predictions": top_predictions(maps.probabilities, manifest.classes, default_top_k(manifest)),
        "layers": layers,
    }
    if query.kind == "tiles":
        pixels = image.astype(np.float32).transpose(2, 0, 1)
        answer["image"] = _tiles(pixels, (np.zeros(len(pixels), np.float32), np.full(len(pixels), 255, np.float32)))
    return json_response(answer)


def _bytes(value: Floats, low: Floats, high: Floats) -> dict[str, Any]:
    return {
        "shape": value.shape,
        "data": base64.b64encode(to_bytes(value, low, high).tobytes()).decode(),
        "low": np.ascontiguousarray(low),
        "high": np.ascontiguousarray(high),
    }


def _tiles(value: Floats, limits: Range) -> dict[str, Any]:
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
            "statistics": described("with statistics=true", STATISTICS_OF_LAYER),
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
