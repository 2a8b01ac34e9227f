"""Windows and receptive fields of ONNX operations: what `models.graph.receptive_field` is for those of PyTorch."""

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from models.graph.node import Pair
from models.graph.receptive_field import ReceptiveField, Window, widest_of

Shape = tuple[int, ...]

_POOLS = {"MaxPool", "AveragePool", "LpPool"}
_POINTWISE = {
    "Abs", "Add", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "DequantizeLinear", "Div", "Dropout", "Elu",
    "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LRN", "LeakyRelu", "Log", "Max", "Mean",
    "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid",
    "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu",
}  # fmt: skip
_OF_CHANNELS = {"Concat": 1, "Split": 0, "LayerNormalization": -1}  # and the axis they take where none is given
_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def window_of(node: ir.Node, shapes: Sequence[Shape | None], found: Shape) -> Window | None:
    """kernel, stride, padding and dilation of a two-dimensional convolution or pool; None for everything else.

    Padding that is an operation of its own is a window of one pixel.

    Args:
        node: the operation.
        shapes: of its inputs, None for those that are left out.
        found: of its first output.
    """
    if len(found) != 4 or shapes[0] is None or len(shapes[0]) != 4:
        return None
    if node.op_type == "Pad":
        top, left = ((after - before) // 2 for before, after in zip(shapes[0][2:], found[2:], strict=True))
        begins = _ints(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get_ints("pads")
        if begins is not None and len(begins) == 8:
            top, left = begins[2], begins[3]
        return {"kernel": (1, 1), "stride": (1, 1), "padding": (top, left), "dilation": (1, 1)}
    if node.op_type == "Conv" and shapes[1] is not None:
        kernel = _pair(shapes[1][2:])
    elif node.op_type in _POOLS:
        kernel = _pair(node.attributes.get_ints("kernel_shape", (1, 1)))
    else:
        return None
    stride = _pair(node.attributes.get_ints("strides", (1, 1)))
    dilation = _pair(node.attributes.get_ints("dilations", (1, 1)))
    padding = _pair(node.attributes.get_ints("pads", (0, 0)))  # of the top and the left
    if (automatic := node.attributes.get_string("auto_pad", "NOTSET")).startswith("SAME"):
        y, x = (
            max(0, (found[i + 2] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 - shapes[0][i + 2])
            for i in (0, 1)
        )
        padding = (-(-y // 2), -(-x // 2)) if automatic == "SAME_LOWER" else (y // 2, x // 2)
    return {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}


def propagate(node: ir.Node, parents: Sequence[ReceptiveField | None], window: Window | None) -> ReceptiveField | None:
    """The reach of what an operation returns.

    Args:
        node: the operation.
        parents: the reaches of those of its inputs that depend on the image.
        window: what `window_of` says of it.

    Returns:
        None for what sees the whole image, has no positions, or cannot be told.
    """
    widest = widest_of(parents)
    if widest is None:
        return None
    if window is not None:
        return None if widest.last else widest.through(window)
    if node.op_type in _OF_CHANNELS:
        axis = node.attributes.get_int("axis", _OF_CHANNELS[node.op_type])
        return widest if axis % 4 == (3 if widest.last else 1) else None
    if node.op_type == "Transpose":
        wanted = _TO_FIRST if widest.last else _TO_LAST
        moved = tuple(node.attributes.get_ints("perm", ())) == wanted
        return replace(widest, last=not widest.last) if moved else None
    if node.op_type == "MatMul":  # a linear layer at every position
        return widest if widest.last and len(parents) == 1 else None
    return widest if node.op_type in _POINTWISE else None


def _ints(value: ir.Value | None) -> list[int] | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else [int(number) for number in tensor.numpy().reshape(-1)]


def _pair(numbers: Sequence[int]) -> Pair:
    return (int(numbers[0]), int(numbers[1]))
