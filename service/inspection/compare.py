"""Comparison of two runs layer by layer: two images in one network, or one image in two networks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.predictor import Predictor
from models.graph.node import Node
from models.images.decode import Floats, Pixels
from service.inspection.feature_maps import inspect_image


@dataclass(frozen=True)
class LayerDifference:
    """How much one layer's value differs between two runs; everything is 0, and the cosine 1, for equal values.

    Attributes:
        layer, op: of the first run.
        shape: of its value for one image.
        maximum: largest absolute difference.
        mean: mean absolute difference.
        relative: L2 norm of the difference by that of the first value; None if the first value is 0 and they differ.
        cosine: of the angle between the two values; None if exactly one of them is 0.
    """

    layer: str
    op: str
    shape: tuple[int, ...]
    maximum: float
    mean: float
    relative: float | None
    cosine: float | None

    @classmethod
    def of(cls, node: Node, first: Floats, second: Floats) -> "LayerDifference":
        """Compares two values of equal shape."""
        one, other = (value.astype(np.float64).ravel() for value in (first, second))
        difference = np.abs(one - other)
        norms = float(np.linalg.norm(one)), float(np.linalg.norm(other))
        distance = float(np.linalg.norm(difference))
        equal = not difference.any()
        relative = 0.0 if equal else distance / norms[0] if norms[0] else None
        cosine = 1.0 if equal else float(one @ other / (norms[0] * norms[1])) if norms[0] and norms[1] else None
        return cls(node.name, node.op, node.shape, float(difference.max()), float(difference.mean()), relative, cosine)


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other.

    Attributes:
        layers: those that both have, in the order of the first.
        begins: the first layer whose values differ by more than `tolerance` of its largest value; empty if none does.
        unmatched: layers of the first and of the second that the other lacks or has in another shape.
        probabilities: (K,) of each run.
    """

    layers: list[LayerDifference]
    begins: str
    unmatched: tuple[list[str], list[str]]
    probabilities: tuple[Floats, Floats]


def compare(
    first: tuple[Predictor, Pixels],
    second: tuple[Predictor, Pixels],
    nodes: Sequence[Node],
    *,
    tolerance: float = 1e-4,
) -> Comparison:
    """Runs two networks, each on its image, and compares the values of layers with equal names and shapes.

    Args:
        first, second: an artifact with an ONNX file, and a uint8 image (H, W, C) as it takes it.
        nodes: layers of the first to be compared.
        tolerance: a difference below this share of the layer's largest absolute value is rounding.
    """
    others = {node.name: node for node in second[0].manifest.nodes if node.value}
    matched = [node for node in nodes if node.name in others and others[node.name].shape == node.shape]
    names = {node.name for node in matched}
    one = inspect_image(*first, matched)
    other = inspect_image(*second, [others[node.name] for node in matched])
    layers, begins = [], ""
    for (node, value), (_, there) in zip(one.layers, other.layers, strict=True):
        layers.append(LayerDifference.of(node, value, there))
        if not begins and layers[-1].maximum > tolerance * float(np.abs(value).max()):
            begins = node.name
    missing = [node.name for node in nodes if node.name not in names]
    known = {(node.name, node.shape) for node in first[0].manifest.nodes}
    added = [name for name, node in others.items() if (name, node.shape) not in known]
    return Comparison(layers, begins, (missing, added), (one.probabilities, other.probabilities))
