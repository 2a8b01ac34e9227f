"""Layers as outputs of an inference request: feature maps of a whole batch, from the inspected ONNX file."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from starlette.types import Receive

from models.graph.node import Node
from models.images.decode import Floats, Pixels
from service.errors import UnknownLayer
from service.http.disconnect import cancel_on_disconnect
from service.inspection.channels import check_size
from service.inspection.feature_maps import select_nodes
from service.inspection.queue import InspectionQueue
from service.serving.served_model import ServedModel
from service.settings import Settings
from service.v2.request import SCORES, RequestedOutput


@dataclass(frozen=True)
class LayerOutputs:
    """The values of layers for a batch.

    Attributes:
        file: the file that ran.
        probabilities: (N, K) of that run.
        values: by layer, float32 (N, ...).
    """

    file: str
    probabilities: Floats
    values: dict[str, Floats]


def find_layers(model: ServedModel, outputs: Sequence[RequestedOutput]) -> list[Node]:
    """The nodes named by outputs other than probabilities and logits, each by its full name.

    Raises:
        NotInspectable: the artifact has no ONNX file.
        UnknownLayer: no node has that name; the message lists the nearest.
    """
    names = [output.name for output in outputs if output.name not in SCORES]
    if not names:
        return []
    known = {node.name: node for node in model.manifest.nodes if node.value}
    for name in names:
        if name not in known or model.predictor.extractor is None:
            select_nodes(model.predictor, [name])  # raises with the reason; it accepts globs, which outputs do not
            raise UnknownLayer(f"an output is one layer by its name, got {name!r}")
    return [known[name] for name in names]


def check_layers(nodes: Sequence[Node], outputs: Sequence[RequestedOutput], images: int, settings: Settings) -> None:
    """Raises TooManyValues if the layers of all images together exceed the maximum number of values."""
    in_json = {output.name for output in outputs if not output.binary}
    advice = "ask for fewer layers or images"
    check_size(nodes, settings.limit("inspection_limit_values"), advice, images=images)
    readable = [node for node in nodes if node.name in in_json]
    limit = settings.limit("inspection_limit_json_values")
    check_size(readable, limit, f"{advice}, or for binary data", images=images)


async def run_layers(
    model: ServedModel, images: Pixels, nodes: Sequence[Node], *, inspection_queue: InspectionQueue, receive: Receive
) -> LayerOutputs:
    """Runs `model.onnx` with the nodes as outputs on uint8 (N, H, W, C).

    Raises:
        QueueFull: too many inspections are waiting.
        ClientDisconnect: the client disconnected first.
        EngineError: the file has changed since it was loaded.
    """
    extractor, values, size = model.predictor.extractor, [node.value for node in nodes], model.batch_size.images
    assert extractor is not None, "find_layers refuses models without an extractor"

    def work() -> LayerOutputs:
        runs = [extractor.run(images[start : start + size], values) for start in range(0, len(images), size)]
        found = [np.concatenate(parts) for parts in zip(*(values for _, values in runs), strict=True)]
        layers = {node.name: np.asarray(value, np.float32) for node, value in zip(nodes, found, strict=True)}
        return LayerOutputs(extractor.file, np.concatenate([probabilities for probabilities, _ in runs]), layers)

    return await cancel_on_disconnect(asyncio.ensure_future(inspection_queue.run(work)), receive)
