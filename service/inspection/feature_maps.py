"""Looking inside: which layers a request means, and what the served ONNX file computes there for one image."""

import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.predictor import Predictor
from models.graph.node import Node
from models.images.decode import Floats, Pixels
from service.errors import UnknownLayer
from service.inspection.units import extractor_of


@dataclass(frozen=True)
class FeatureMaps:
    """What one image makes of a network.

    Attributes:
        probabilities: (K,), as `file` computes them together with the maps.
        layers: node and value, (C, H, W) or (K,) and so on, without the batch.
        served_difference: largest difference to the probabilities of the file that serves.
    """

    file: str
    probabilities: Floats
    layers: list[tuple[Node, Floats]]
    served_difference: float


def select_nodes(model: Predictor, patterns: Sequence[str]) -> list[Node]:
    """The nodes that any of the patterns (names or globs such as `layer1.*`) mean, in the network's order.

    Raises:
        NotInspectable: the artifact has no ONNX file.
        UnknownLayer: a pattern that means none; the message lists the nearest names.
    """
    extractor_of(model)
    nodes = [node for node in model.manifest.nodes if node.value]
    names = [node.name for node in nodes]
    chosen: set[str] = set()
    for pattern in patterns:
        matching = [pattern] if pattern in names else fnmatch.filter(names, pattern)
        if not matching:
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4) or names[:8]
            raise UnknownLayer(f"{model.manifest.name} has no layer {pattern!r}; near are {', '.join(near)}")
        chosen.update(matching)
    return [node for node in nodes if node.name in chosen]


def inspect_image(model: Predictor, image: Pixels, nodes: Sequence[Node]) -> FeatureMaps:
    """Runs `model.onnx` with the nodes as outputs on one image, and the file that serves beside it.

    Args:
        model: the artifact.
        image: uint8 (H, W, C) as the network takes it.
        nodes: what to return.
    """
    extractor = extractor_of(model)
    batch = image[np.newaxis]
    probabilities, values = extractor.run(batch, [node.value for node in nodes])
    layers = [(node, np.asarray(value[0], np.float32)) for node, value in zip(nodes, values, strict=True)]
    difference = model.served_difference(image, probabilities[0])
    return FeatureMaps(extractor.file, probabilities[0], layers, difference)
