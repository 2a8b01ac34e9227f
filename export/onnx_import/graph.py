"""Wraps an imported classifier as model.onnx: normalisation of pixels before it, probabilities after it.

The imported graph stays unchanged, names included, except for names that the wrapping graph needs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveInitializersFromInputsPass, RemoveUnusedNodesPass

from export.engines.original import Conventions, Gives, Layout
from export.onnx_import.source import OnnxClassifier, OnnxImportError
from models.images.input_spec import InputSpec

SCOPES = "pkg.torch.onnx.name_scopes"
_CONTRACT = ("image", "probabilities", "logits")
_OURS = "convscope:"
_IR_VERSION = 8  # from 4 on initializers need not be inputs


_PASSED_OVER = ("Identity", "Cast", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose")


@dataclass(frozen=True)
class WrappedGraph:
    """The wrapped graph.

    Attributes:
        model: `image` uint8 (N, H, W, C) to `probabilities` and `logits` float32 (N, K).
        first: the imported network's input, normalised.
        last: its logits.
        layout: order of the axes of `first`.
    """

    model: ir.Model
    first: ir.Value
    last: ir.Value
    layout: Layout = "NCHW"

    @property
    def nodes(self) -> list[ir.Node]:
        """The imported operations that the logits may depend on, in the order of computation."""
        whole = list(self.model.graph)
        after = self.first.producer()
        until = self.last.producer()
        assert after is not None and until is not None
        return whole[whole.index(after) + 1 : whole.index(until) + 1]


def output_kind(file: OnnxClassifier) -> Gives:
    """Kind of the used output, by the operation that it comes out of.

    Raises:
        OnnxImportError: the operation gives something else than scores.
    """
    output = next(value for value in ir.from_proto(file.model).graph.outputs if value.name == file.output)
    maker = _final(file, output)
    return "logits" if maker is None else "probabilities" if maker.op_type == "Softmax" else "sigmoid"


def wrap(
    file: OnnxClassifier,
    spec: InputSpec,
    conventions: Conventions | None = None,
    *,
    scores: int | None = None,
    add_batch: bool = False,
    single: bool = False,
) -> WrappedGraph:
    """Adds normalisation before the network, and a cast or softmax after it. A final softmax or sigmoid of the network
    stays, and its input becomes the logits.

    Args:
        file: the network.
        spec: its input specification.
        conventions: how it takes images and returns scores; by default as the file declares.
        scores: number of scores for each image; 1 becomes the two of a sigmoid and its complement.
        add_batch: for a network whose output for one image has no axis for the batch.
        single: for a network that takes one image only.

    Raises:
        OnnxImportError: the network ends in neither logits nor their softmax or sigmoid.
    """
    conventions = conventions or Conventions(output=file.output, gives=output_kind(file), layout=file.layout)
    model = ir.from_proto(file.model)
    graph = model.graph
    _clear_shapes(graph)
    RemoveInitializersFromInputsPass()(model)
    (given,) = graph.inputs
    output = next(value for value in graph.outputs if value.name == file.output)
    maker = _final(file, output)
    last = output if maker is None else maker.inputs[0]
    if last is None or last.producer() is None:
        raise OnnxImportError(f"{file.path}: nothing is computed before its output {file.output!r}")
    _rename_conflicts(graph)

    batch = 1 if single else "N"
    image = ir.val("image", ir.DataType.UINT8, [batch, *spec.shape])
    front = _normalisation(image, spec, ir.DataType[file.dtype], conventions)
    first = front[-1].outputs[0]
    first.name, given.name = given.name, None
    given.replace_all_uses_with(first)
    graph.insert_before(graph[0], front)

    shape = [-1, scores] if add_batch and scores is not None else None
    if conventions.gives == "sigmoid" and scores == 1:
        behind = [
            *_pair(last, "logits", (0, 1), (0, 0), shape),
            *_pair(output, "probabilities", (-1, 1), (1, 0), shape),
        ]
    else:
        behind = _as_floats(last, "logits", shape)
        if maker is None:
            behind.append(_node("Softmax", behind[-1].outputs, "probabilities", axis=1))
        else:
            behind += _as_floats(output, "probabilities", shape)
    graph.extend(behind)
    graph.inputs[:] = [image]
    made = {value.name: value for node in behind for value in node.outputs}
    graph.outputs[:] = [made["probabilities"], made["logits"]]
    for value in graph.outputs:
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([batch, None])
    RemoveUnusedNodesPass()(model)
    model.ir_version = max(model.ir_version, _IR_VERSION)
    return WrappedGraph(model, first, last, conventions.layout)


def explain_fixed_batch(graph: WrappedGraph) -> str:
    """Describes the first operation that fixes the batch, for the message about a graph that takes one size only."""
    for node in graph.nodes:
        shape = node.inputs[1] if node.op_type in ("Reshape", "Expand") and len(node.inputs) > 1 else None
        tensor = None if shape is None else ir.convenience.get_const_tensor(shape)
        sizes = [] if tensor is None else tensor.numpy().reshape(-1).tolist()
        if len(sizes) > 1 and sizes[0] > 0:
            return f"; {node.op_type} {node.name!r} makes {sizes} of whatever batch: export the model with a free batch"
    return ""


def _final(file: OnnxClassifier, output: ir.Value) -> ir.Node | None:
    """The softmax or sigmoid that an output comes out of, operations that keep every score passed over."""
    maker = output.producer()
    while maker is not None and maker.op_type in _PASSED_OVER and maker.inputs[0] is not None:
        maker = maker.inputs[0].producer()
    if maker is None or maker.op_type not in ("Softmax", "Sigmoid", "HardSigmoid", "ArgMax", "TopK"):
        return None
    if maker.op_type not in ("Softmax", "Sigmoid"):
        raise OnnxImportError(
            f"{file.path}: {file.output!r} comes out of {maker.op_type}; wanted logits, or their softmax or sigmoid"
        )
    return maker


def softmax_axis(file: OnnxClassifier) -> int:
    """The axis of the softmax that the used output comes out of."""
    output = next(value for value in ir.from_proto(file.model).graph.outputs if value.name == file.output)
    maker = _final(file, output)
    assert maker is not None and maker.op_type == "Softmax"
    return maker.attributes.get_int("axis", -1 if file.opset >= 13 else 1)


def _normalisation(image: ir.Value, spec: InputSpec, dtype: ir.DataType, conventions: Conventions) -> list[ir.Node]:
    constants = [
        _constant(f"{_OURS}{name}", (255 * np.asarray(getattr(spec, name))).astype(np.float32))
        for name in ("mean", "std")
    ]
    mean, std = (constant.outputs[0] for constant in constants)
    floats = _node("Cast", [image], f"{_OURS}floats", to=ir.DataType.FLOAT)
    centred = _node("Sub", [*floats.outputs, mean], f"{_OURS}centred")
    normalised = _node("Div", [*centred.outputs, std], f"{_OURS}normalised")
    nodes = [*constants, floats, centred, normalised]
    if conventions.channel_order == "BGR":
        order = _constant(f"{_OURS}order", np.array([2, 1, 0]))
        nodes += [order, _node("Gather", [*normalised.outputs, *order.outputs], f"{_OURS}bgr", axis=3)]
    nodes.append(_node("Cast", nodes[-1].outputs, f"{_OURS}rounded", to=dtype))
    if conventions.layout == "NCHW":
        nodes.append(_node("Transpose", nodes[-1].outputs, f"{_OURS}nchw", perm=[0, 3, 1, 2]))
    return nodes


def _as_floats(value: ir.Value, name: str, shape: list[int] | None) -> list[ir.Node]:
    # ONNX Runtime drops the cast to half precision of two consecutive casts, and with it the original's rounding.
    # Flatten, a no-op here, separates them; at the input the transposition does.
    if shape is None:
        nodes = [_node("Flatten", [value], f"{_OURS}{name}.flat", axis=1)]
    else:
        sizes = _constant(f"{_OURS}{name}.shape", np.array(shape))
        nodes = [sizes, _node("Reshape", [value, *sizes.outputs], f"{_OURS}{name}.flat")]
    return [*nodes, _node("Cast", nodes[-1].outputs, name, to=ir.DataType.FLOAT)]


def _pair(
    value: ir.Value, name: str, factors: tuple[int, int], shift: tuple[int, int], shape: list[int] | None
) -> list[ir.Node]:
    """Two scores for each image, (N, 2), from one: it times `factors`, plus `shift`."""
    nodes = _as_floats(value, f"{_OURS}{name}.one", shape)
    by, plus = (
        _constant(f"{_OURS}{name}.{word}", np.array([numbers], np.float32))
        for word, numbers in (("factors", factors), ("shift", shift))
    )
    product = _node("Mul", [*nodes[-1].outputs, *by.outputs], f"{_OURS}{name}.product")
    return [*nodes, by, plus, product, _node("Add", [*product.outputs, *plus.outputs], name)]


def _constant(name: str, numbers: npt.NDArray[Any]) -> ir.Node:
    made = ir.node("Constant", [], {"value": ir.tensor(numbers)}, name=name)
    made.outputs[0].name = name
    return made


def _node(op: str, inputs: Any, value: str, **attributes: Any) -> ir.Node:
    made = ir.node(op, inputs, attributes, name=value if value.startswith(_OURS) else _OURS + value)
    made.outputs[0].name = value
    return made


def _rename_conflicts(graph: ir.Graph) -> None:
    """Renames values whose names collide with the wrapping graph's names or prefix."""
    known = ir.convenience.create_value_mapping(graph)
    for name, value in known.items():
        if name in _CONTRACT or name.startswith(_OURS):
            other = f"{name}.inner"
            while other in known:
                other += "_"
            ir.convenience.rename_values(value, other)


def to_proto(graph: WrappedGraph, properties: dict[str, str]) -> onnx.ModelProto:
    """The wrapped graph as an ONNX model, with `properties` as its metadata.

    Raises:
        OnnxImportError: ONNX's checker refuses it.
    """
    model = ir.to_proto(graph.model)
    _strip(model)
    onnx.helper.set_model_props(model, properties)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise OnnxImportError(f"the wrapped graph is not sound: {' '.join(str(error).split())}") from None
    return model


def _clear_shapes(graph: ir.Graph) -> None:
    """Clears shapes, which may hold a frozen batch; runtimes infer them anew."""
    for value in ir.convenience.create_value_mapping(graph).values():
        if not value.is_initializer():
            value.shape = None


def _strip(message: Any) -> None:
    """Removes metadata, which may identify the machine that wrote the file, except for module names."""
    for field, value in message.ListFields():
        if field.name == "doc_string":
            message.ClearField(field.name)
        elif field.name == "metadata_props":
            scopes = [entry for entry in value if entry.key == SCOPES]
            del value[:]
            value.extend(scopes)
        elif field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                _strip(part)
