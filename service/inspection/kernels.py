"""Kernels: the weights of one layer as the served file has them, alone or with the batch norm behind them folded in."""

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from export.engines.onnx_graph import OnnxGraph, Operation
from export.predictor import Predictor
from models.images.decode import Floats
from service.errors import NoKernels
from service.inspection.tiles import draw_kernels, encode_png
from service.inspection.units import extractor_of, find_value

_WEIGHTED = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Kernels:
    """The weights of a convolution or a linear layer.

    Attributes:
        layer: its address.
        operator: `Conv`, `Gemm` or `MatMul`.
        weights: float32 (outputs, inputs / groups, height, width), or (outputs, inputs) of a linear layer.
        bias: float32 (outputs,); zeros if it has none.
        groups: of a convolution, else 1.
        batch_norm: the layer whose scale and shift are folded in; empty if none is.
    """

    layer: str
    operator: str
    weights: Floats
    bias: Floats
    groups: int
    batch_norm: str = ""

    def _repr_png_(self) -> bytes:
        """A picture of the weights, for notebooks."""
        return encode_png(draw_kernels(self.weights))


def layer_kernels(model: Predictor, layer: str, *, effective: bool = False) -> Kernels:
    """Reads the weights of a layer from `model.onnx`.

    Args:
        model: the artifact.
        layer: a layer's name, or `LAYER:VALUE` for a value inside a layer.
        effective: fold the batch norm that alone reads the layer's value into weights and bias (Jacob et al.,
            Quantization and Training of Neural Networks, 2018, section 3.2); without one they stay as they are.

    Raises:
        NotInspectable: the artifact has no ONNX file.
        UnknownLayer: no such layer.
        NoKernels: the layer has no weights, or several, which the message lists.
    """
    graph = extractor_of(model).graph
    value = find_value(model, graph, layer)
    found = _plain(graph, layer, _weighted(graph, layer, value))
    norm = _batch_norm(graph, value) if effective else None
    return found if norm is None else _folded(graph, found, norm)


def kernel_shape(model: Predictor, layer: str) -> tuple[int, ...]:
    """The shape of a layer's weights, without copying them; raises as `layer_kernels` does."""
    graph = extractor_of(model).graph
    operation = _weighted(graph, layer, find_value(model, graph, layer))
    weights = graph.constant(operation.inputs[1])
    assert weights is not None, "_weighted found one with constant weights"
    return tuple(weights.shape)


def _weighted(graph: OnnxGraph, layer: str, value: str) -> Operation:
    """The one operation inside a layer that has weights."""
    inside = [
        operation
        for operation in graph.inside(value)
        if operation.op in _WEIGHTED and graph.constant(operation.inputs[1]) is not None
    ]
    direct = [operation for operation in inside if value in operation.outputs]
    chosen = direct or inside
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        names = ", ".join(graph.addresses[operation.outputs[0]] for operation in reversed(chosen))
        raise NoKernels(f"{layer} has several kernels; take one of {names}")
    known = [node for address, node in graph.values.items() if ":" not in address and _has_weights(graph, node)]
    names = ", ".join(graph.addresses[one] for one in known[:8]) + (" ..." if len(known) > 8 else "")
    raise NoKernels(f"{layer} has no kernels; layers that have: {names or 'none'}")


def _has_weights(graph: OnnxGraph, value: str) -> bool:
    return any(one.op in _WEIGHTED and graph.constant(one.inputs[1]) is not None for one in graph.inside(value))


def _plain(graph: OnnxGraph, layer: str, operation: Operation) -> Kernels:
    weights = graph.constant(operation.inputs[1])
    assert weights is not None, "_weighted found one with constant weights"
    weights = weights.astype(np.float32)
    attributes, bias = operation.attributes, None
    if operation.op == "MatMul" or (operation.op == "Gemm" and not attributes.get("transB", 0)):
        weights = np.ascontiguousarray(np.swapaxes(weights, -1, -2))
    if len(operation.inputs) > 2 and operation.inputs[2]:
        bias = graph.constant(operation.inputs[2])
    elif operation.op == "MatMul":
        bias = _added(graph, operation)
    if operation.op == "Gemm":
        weights = weights * np.float32(attributes.get("alpha", 1.0))
        bias = None if bias is None else bias * attributes.get("beta", 1.0)
    outputs = weights.shape[0]
    filled = np.zeros(outputs, np.float32) if bias is None else np.broadcast_to(bias.reshape(-1), outputs)
    return Kernels(layer, operation.op, weights, filled.astype(np.float32), attributes.get("group", 1))


def _added(graph: OnnxGraph, operation: Operation) -> Floats | None:
    """The constant that an Add behind a product adds: the bias of a linear layer."""
    users = graph.consumers.get(operation.outputs[0], [])
    if len(users) != 1 or users[0].op != "Add":
        return None
    constants = [graph.constant(name) for name in users[0].inputs]
    return next((one for one in constants if one is not None and prod(one.shape) == one.shape[-1]), None)


def _batch_norm(graph: OnnxGraph, value: str) -> Operation | None:
    users = graph.consumers.get(value, [])
    return users[0] if len(users) == 1 and users[0].op == "BatchNormalization" else None


def _folded(graph: OnnxGraph, kernels: Kernels, norm: Operation) -> Kernels:
    parameters = [graph.constant(name) for name in norm.inputs[1:5]]
    if any(one is None for one in parameters):
        return kernels
    gamma, beta, mean, variance = (one.astype(np.float64) for one in parameters if one is not None)
    scale = gamma / np.sqrt(variance + norm.attributes.get("epsilon", 1e-5))
    weights = kernels.weights * scale.reshape(-1, *[1] * (kernels.weights.ndim - 1))
    bias = (kernels.bias - mean) * scale + beta
    return replace(
        kernels,
        weights=weights.astype(np.float32),
        bias=bias.astype(np.float32),
        batch_norm=graph.addresses[norm.outputs[0]],
    )
