"""POST /v2/models/{m}[/versions/{v}]/infer: inference of the Open Inference Protocol."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from models.graph.node import Node
from models.images.decode import Floats, Pixels
from models.images.errors import ImageError
from service.errors import MalformedBody
from service.http.bodies import BodyReader
from service.http.compression import decompress_body
from service.http.requests import NUMBER
from service.http.responses import send_body, send_json
from service.inspection.queue import InspectionQueue
from service.serving.catalog import Catalog
from service.serving.decoding import decode_uploads, stack_images
from service.serving.predictions import check_top_k, top_predictions
from service.serving.served_model import ServedModel
from service.settings import Settings
from service.v2.layers import check_layers, find_layers, run_layers
from service.v2.request import InferRequest, RequestedOutput, parse_request, raw_request
from service.v2.tensors import Tensor, encode_answer

HEADER = "inference-header-content-length"


class Infer:
    """The route as a bare ASGI application, as `service.v1.classify` is."""

    def __init__(
        self,
        catalog: Catalog,
        settings: Settings,
        body_reader: BodyReader,
        decoders: Executor,
        inspection_queue: InspectionQueue,
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._bodies = body_reader
        self._decoders = decoders
        self._turns = inspection_queue
        self._limit_bytes = settings.limit("body_limit_bytes")
        self._limit_json_bytes = settings.limit("json_limit_bytes")
        self._limit_images = settings.limit("images_per_request")
        self._limit_pixels = settings.limit("image_limit_pixels")
        self._limit_top_k = settings.limit("top_k_limit")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; errors are raised for the caller to map."""
        async with asyncio.timeout(self._settings.deadline_s):
            model = await self._catalog.find(**scope["path_params"])
            request, nodes, images = await self._read(model, scope, receive)
            fields, tensors = await self._answer(model, request, nodes, images, receive)
            # Layers are megabytes; scores are not worth the way to a thread.
            answer = (
                await asyncio.to_thread(encode_answer, fields, tensors) if nodes else encode_answer(fields, tensors)
            )
        if answer.header_bytes is None:
            await send_json(send, 200, answer.body)
        else:
            length = (HEADER.encode(), str(answer.header_bytes).encode())
            await send_body(send, 200, answer.body, b"application/octet-stream", [length])

    async def _read(
        self, model: ServedModel, scope: Scope, receive: Receive
    ) -> tuple[InferRequest, list[Node], Pixels]:
        """The request, the layers in it, and its images, uint8 (N, H, W, C)."""
        headers = Headers(scope=scope)
        header_bytes = _header_bytes(headers)
        limit = self._limit_json_bytes if header_bytes is None else self._limit_bytes
        spec = model.manifest.input
        async with (
            self._bodies.body(scope, receive, limit_bytes=limit) as received,
            decompress_body(
                received,
                headers.get("content-encoding", "").strip().lower(),
                body_reader=self._bodies,
                limit_bytes=limit,
                executor=self._decoders,
            ) as body,
        ):
            if header_bytes == 0:
                request = raw_request(body, headers.get("content-type", ""), spec)
            else:
                request = parse_request(
                    body,
                    header_bytes,
                    spec,
                    limit_images=self._limit_images,
                    limit_json_bytes=self._limit_json_bytes,
                )
            for output in request.outputs:
                check_top_k(_count(output, model.manifest.classes), self._limit_top_k)
            nodes = find_layers(model, request.outputs)
            check_layers(nodes, request.outputs, len(request.images), self._settings)
            if isinstance(request.images, np.ndarray):
                return request, nodes, request.images
            return request, nodes, await self._decode(model, request.images)

    async def _decode(self, model: ServedModel, uploads: Sequence[bytes]) -> Pixels:
        decoded = await decode_uploads(
            uploads,
            model.manifest.input,
            limit_pixels=self._limit_pixels,
            executor=self._decoders,
        )
        for index, image in enumerate(decoded):
            if isinstance(image, ImageError):  # a tensor has no place for an error, so one bad image fails them all
                raise type(image)(f"image {index}: {image}") if len(decoded) > 1 else image
        return await stack_images([image for image in decoded if not isinstance(image, ImageError)], self._decoders)

    async def _answer(
        self, model: ServedModel, request: InferRequest, nodes: Sequence[Node], images: Pixels, receive: Receive
    ) -> tuple[dict[str, Any], list[Tensor]]:
        """The fields of the answer and its outputs, in the order asked for."""
        manifest = model.manifest
        fields: dict[str, Any] = {"model_name": manifest.name, "model_version": str(manifest.version)}
        if request.id is not None:
            fields["id"] = request.id
        layers = None
        if nodes:
            layers = await run_layers(model, images, nodes, inspection_queue=self._turns, receive=receive)
        probabilities, logits = await model.run(images, receive)
        values = {"probabilities": probabilities, "logits": logits}
        if layers is not None:
            difference = float(np.abs(layers.probabilities - probabilities).max())
            fields["parameters"] = {"layers_file": layers.file, "maximum_difference": difference}
            values |= {name: value for name, value in layers.values.items() if name not in values}
        return fields, [_tensor(output, values[output.name], manifest.classes) for output in request.outputs]


def _tensor(output: RequestedOutput, value: Floats, classes: tuple[str, ...]) -> Tensor:
    if not output.classes:
        return Tensor(name=output.name, shape=value.shape, values=value, binary=output.binary)
    count = _count(output, classes)
    texts = [
        f"{row['probability']}:{row['index']}:{row['label']}".encode()
        for scores in value
        for row in top_predictions(scores, classes, count)
    ]
    return Tensor(name=output.name, shape=(len(value), count), values=texts, binary=output.binary)


def _count(output: RequestedOutput, classes: Sequence[str]) -> int:
    return min(output.classes, len(classes))  # as Triton does, so that top-5 of two classes are both


def _header_bytes(headers: Headers) -> int | None:
    given = headers.get(HEADER)
    if given is None:
        return None
    if not NUMBER.fullmatch(given):
        raise MalformedBody(f"Inference-Header-Content-Length is {given[:20]!r}; wanted a number of bytes")
    return int(given)
