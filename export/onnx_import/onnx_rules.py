"""Rules for windows and receptive fields of ONNX operators, the counterpart of `models.graph.torch_rules`."""

from collections.abc import Sequence

import onnx_ir as ir

from models.graph.receptive_field import Pair, ReceptiveField, Window, union

Shape = tuple[int, ...]

_POOLS = {"MaxPool", "AveragePool", "LpPool"}
_POINTWISE = {
    "Abs", "Add", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "DequantizeLinear", "Div", "Dropout", "Elu",
    "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LRN", "LeakyRelu", "Log", "Max", "Mean",
    "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid",
    "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu",
}  # fmt: skip
_ALONG_CHANNELS = {"Concat": 1, "Split": 0, "LayerNormalization": -1}  # with the default axis


def window_of(node: ir.Node, shapes: Sequence[Shape | None], result: Shape) -> Window | None:
    """Kernel, stride, padding and dilation of a two-dimensional convolution or pool; None for everything else.

    A separate padding operation is a window of one pixel.

    Args:
        node: the operation.
        shapes: shapes of its inputs, None for omitted ones.
        result: shape of its first output.
    """
    if len(result) != 4 or shapes[0] is None or len(shapes[0]) != 4:
        return None
    if node.op_type == "Pad":
        top, left = ((after - before) // 2 for before, after in zip(shapes[0][2:], result[2:], strict=True))
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
            max(0, (result[i + 2] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 - shapes[0][i + 2])
            for i in (0, 1)
        )
        padding = (-(-y // 2), -(-x // 2)) if automatic == "SAME_LOWER" else (y // 2, x // 2)
    return {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}


def propagate(node: ir.Node, parents: Sequence[ReceptiveField | None], window: Window | None) -> ReceptiveField | None:
    """The receptive field of an operation's result.

    Args:
        node: the operation.
        parents: receptive fields of its inputs that depend on the image.
        window: from `window_of`.

    Returns:
        None for a result that depends on the whole image or has no positions, and for an unknown operation.
    """
    field = union(parents)
    if field is None:
        return None
    if window is not None:
        return None if field.channels_last else field.through_window(window)
    if node.op_type in _ALONG_CHANNELS:
        axis = node.attributes.get_int("axis", _ALONG_CHANNELS[node.op_type])
        return field if axis % 4 == (3 if field.channels_last else 1) else None
    if node.op_type == "Transpose":
        return field.transposed(node.attributes.get_ints("perm", ()))
    if node.op_type == "Slice":
        return _after_slice(field, node)
    if node.op_type == "MatMul":  # a linear layer at every position
        return field if field.channels_last and len(parents) == 1 else None
    return field if node.op_type in _POINTWISE else None


def _after_slice(field: ReceptiveField, node: ir.Node) -> ReceptiveField | None:
    given = {name: value for name, value in zip(("starts", "ends", "axes", "steps"), node.inputs[1:], strict=False)}
    found = {name: _ints(value) for name, value in given.items() if value is not None and name != "ends"}
    if not found or None in found.values():
        return None
    starts = found["starts"] or []
    axes, steps = found.get("axes") or range(len(starts)), found.get("steps") or [1] * len(starts)
    first, step = [0, 0, 0, 0], [1, 1, 1, 1]
    for start, axis, by in zip(starts, axes, steps, strict=True):
        first[axis], step[axis] = start, by
    if min(first) < 0 or min(step) < 1:
        return None
    y, x = (1, 2) if field.channels_last else (2, 3)
    return field.sliced((first[y], first[x]), (step[y], step[x]))


def _ints(value: ir.Value | None) -> list[int] | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else [int(number) for number in tensor.numpy().reshape(-1)]


def _pair(numbers: Sequence[int]) -> Pair:
    return (int(numbers[0]), int(numbers[1]))
