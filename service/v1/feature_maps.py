"""POST /v1/models/{m}/feature-maps: what every layer of the served file makes of one image."""

import asyncio
import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response

from models.graph.node import Node
from models.images.decode import Floats, Pixels
from models.images.errors import ImageError
from service.http.bodies import BodyReader
from service.http.disconnect import cancel_on_disconnect
from service.http.requests import choice, parse_query
from service.inspection.feature_maps import FeatureMaps, check_size, inspect_image, select_nodes
from service.inspection.queue import InspectionQueue
from service.inspection.tiles import draw_sheet, encode_png, make_tiles
from service.serving.catalog import Catalog
from service.serving.decoding import decode_or_error
from service.serving.predictions import default_top_k, top_predictions
from service.serving.served_model import ServedModel
from service.settings import Limit, Settings

PARAMETERS = ("layers", "format", "values")


class FeatureMapsRoute:
    """The route; takes its turn with every other inspection, so that classification does not wait for it."""

    def __init__(
        self, catalog: Catalog, settings: Settings, body_reader: BodyReader, inspection_queue: InspectionQueue
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._bodies = body_reader
        self._turns = inspection_queue

    async def __call__(self, request: Request) -> Response:
        """Answers one request; errors are raised for the caller to map."""
        async with asyncio.timeout(self._settings.deadline_s):
            return await self._answered(request)

    async def _answered(self, request: Request) -> Response:
        values = parse_query(request.scope["query_string"], PARAMETERS)
        model = await self._catalog.find(request.path_params["model"])
        form = choice(values, "format", ("json", "npz", "png"))
        kind = choice(values, "values", ("numbers", "tiles"))
        patterns = [name for part in values.get("layers", ["*"]) for name in part.split(",") if name]
        nodes = select_nodes(model, patterns or ["*"])
        check_size(nodes, self._settings.limit("inspection_limit_values"), "choose some with ?layers=")
        if form == "json" and kind == "numbers":
            advice = "choose some with ?layers=, or take format=npz or values=tiles"
            check_size(nodes, self._settings.limit("inspection_limit_json_values"), advice)
        async with self._bodies.images(request.scope, request.receive, limit_images=Limit(1)) as (upload,):
            inspecting = self._turns.run(lambda: self._answer(model, upload, nodes, form, kind))
            return await cancel_on_disconnect(asyncio.ensure_future(inspecting), request.receive)

    def _answer(self, model: ServedModel, upload: bytes, nodes: Sequence[Node], form: str, kind: str) -> Response:
        image = decode_or_error(upload, model.manifest.input, self._settings.limit("image_limit_pixels"))
        if isinstance(image, ImageError):
            raise image
        maps = inspect_image(model, image, nodes)
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
