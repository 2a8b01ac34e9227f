"""The node table of an imported classifier, from its graph and a run of it."""

import re
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from export.engines.onnxruntime import OnnxFeatureExtractor
from export.onnx_import.graph import SCOPES, WrappedGraph
from export.onnx_import.onnx_rules import Shape, propagate, window_of
from models.graph.node import Node
from models.graph.receptive_field import ReceptiveField, Window
from models.images.input_spec import InputSpec

_NOT_OF_IMAGE = {"Shape", "Size"}  # their results are the same for every image
_SETTINGS_ONLY = {"Clip", "Pad", "Resize", "Upsample"}  # their constants are no parameters
_NO_PARAMETERS = {ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.STRING}  # sizes, axes, choices


def onnx_node_table(graph: WrappedGraph, path: Path, spec: InputSpec) -> tuple[Node, ...]:
    """A row for every real-valued tensor that depends on the image, in the order of computation.

    Parameters and multiplications of a value without a row (integers of a quantised layer, values that mix the images
    of a batch) count in the first row that uses it, so that the totals are complete.

    Args:
        graph: the wrapped network.
        path: the file with the same network.
        spec: its input specification.
    """
    return _Table(graph, _measured(graph, path, spec), spec).rows()


def _measured(graph: WrappedGraph, path: Path, spec: InputSpec) -> dict[str, tuple[Shape, bool]]:
    """The shape of each value for one image, and whether it can have a row: two images double its first dimension."""
    one, two = (inner_values(graph, path, spec, count) for count in (1, 2))
    found: dict[str, tuple[Shape, bool]] = {}
    for name, single in one.items():
        double = two[name]
        if isinstance(single, np.ndarray) and isinstance(double, np.ndarray):  # sequences are none
            real = np.issubdtype(single.dtype, np.floating) and single.ndim > 1
            by_image = single.shape[:1] == (1,) and double.shape == (2, *single.shape[1:])
            found[name] = single.shape, real and by_image
    return found


def inner_values(graph: WrappedGraph, path: Path, spec: InputSpec, count: int) -> dict[str, Any]:
    """What the file at `path`, the same network, computes for `count` blank images, by name."""
    names = [value.name for node in graph.nodes for value in node.outputs if value.name and node.op_type != "Constant"]
    found = OnnxFeatureExtractor(path, ()).run(np.zeros((count, *spec.shape), np.uint8), names)[1]
    return dict(zip(names, found, strict=True))


class _Table:
    def __init__(self, graph: WrappedGraph, measured: dict[str, tuple[Shape, bool]], spec: InputSpec) -> None:
        self._nodes = graph.nodes
        self._measured = measured
        self._names = readable_names(self._nodes)
        self._parents: dict[ir.Value, tuple[str, ...]] = {graph.first: ("input",)}  # of values that depend on the image
        last = graph.layout == "NHWC"
        self._fields: dict[ir.Value, ReceptiveField | None] = {graph.first: ReceptiveField(channels_last=last)}
        shape = spec.shape if last else (spec.channels, spec.height, spec.width)
        self._first, self._first_shape = graph.first, (1, *shape)
        self._pending: dict[ir.Value, tuple[int, int]] = {}  # parameters and multiplications of values without a row
        self._counted: set[ir.Value] = set()

    def rows(self) -> tuple[Node, ...]:
        return tuple(row for node in self._nodes for row in self._rows_of(node))

    def _rows_of(self, node: ir.Node) -> Iterator[Node]:
        sources = [value for value in _inputs(node) if value in self._parents]
        if not sources or node.op_type in _NOT_OF_IMAGE:
            return
        parents = tuple(dict.fromkeys(name for value in sources for name in self._parents[value]))
        pending = [self._pending.pop(value, (0, 0)) for value in sources]
        parameters = self._parameters(node) + sum(one[0] for one in pending)
        macs = self._macs(node) + sum(one[1] for one in pending)
        window = self._window(node)
        field = propagate(node, [self._fields[value] for value in sources], window)
        for value in node.outputs:
            shape, has_row = self._measured.get(value.name or "", ((), False))
            name, self._fields[value] = self._names[value], field
            self._parents[value] = (name,) if has_row else parents
            if not has_row:
                self._pending[value], (parameters, macs) = (parameters, macs), (0, 0)
                continue
            shown = field if len(shape) == 4 else None
            yield Node(
                name=name,
                op=node.op_type,
                parents=parents,
                shape=shape[1:],
                value=value.name or "",
                parameters=parameters,
                macs=macs,
                receptive_field=shown.size if shown else None,
                jump=shown.jump if shown else None,
                start=shown.start if shown else None,
                **(window or {}),
            )
            parameters, macs = 0, 0

    def _window(self, node: ir.Node) -> Window | None:
        found = self._shape(node.outputs[0])
        return window_of(node, [self._shape(value) for value in node.inputs], found) if found else None

    def _shape(self, value: ir.Value | None) -> Shape | None:
        """Shape of a value for one image, or of a constant."""
        if value is None or value is self._first:
            return None if value is None else self._first_shape
        if (tensor := ir.convenience.get_const_tensor(value)) is not None:
            return tuple(tensor.numpy().shape)
        return self._measured.get(value.name or "", (None, False))[0]

    def _macs(self, node: ir.Node) -> int:
        """Multiply-accumulates for one image; biases are none."""
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            return 0
        found, left, right = (self._shape(value) for value in (node.outputs[0], *node.inputs[:2]))
        if found is None or left is None or right is None:
            return 0
        if node.op_type == "Conv":
            return prod(found) * prod(right[1:])
        return prod(found) * left[0 if node.attributes.get_int("transA", 0) else -1]

    def _parameters(self, node: ir.Node) -> int:
        """Parameters of the node that no earlier node uses."""
        if node.op_type in _SETTINGS_ONLY:
            return 0
        given = node.inputs[1:3] if node.op_type == "BatchNormalization" else _inputs(node)  # not the statistics
        return sum(self._numbers(value) for value in given if value is not None)

    def _numbers(self, value: ir.Value) -> int:
        """Parameters that a value independent of the image is computed from, through operations on constants."""
        if value in self._parents or value in self._counted:
            return 0
        self._counted.add(value)
        if (tensor := ir.convenience.get_const_tensor(value)) is not None:
            return tensor.size if len(tensor.shape) and tensor.dtype not in _NO_PARAMETERS else 0
        maker = value.producer()
        if maker is None:
            return 0
        given = maker.inputs[:1] if maker.op_type == "DequantizeLinear" else maker.inputs
        return sum(self._numbers(inner) for inner in given if inner is not None)


def _inputs(node: ir.Node) -> Iterator[ir.Value]:
    """All values that a node uses, including those in the branches of an If and the bodies of loops."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            for inner in ir.traversal.RecursiveGraphIterator(attribute.as_graph()):
                yield from (value for value in inner.inputs if value is not None)


_RESERVED = {"input", "probabilities"}  # the image's name among parents; the answer's key beside feature maps


def readable_names(nodes: Sequence[ir.Node]) -> dict[ir.Value, str]:
    """Unique names, of letters, digits, `.`, `_` and `-`, for all values that the nodes compute.

    A layer gets its module's name (`layer1.0.conv1`), an operation of a larger module the module's name and its own
    (`layer1.0.Add`), one without a module its name in the file; duplicates are numbered (`relu`, `relu_1`). PyTorch's
    exporters write modules to metadata or to paths such as /layer1/layer1.0/conv1/Conv, as do others.
    """
    paths = {node: _path(node) for node in nodes}
    larger = {"", *(scope[: dot.start()] for scope, _ in paths.values() for dot in re.finditer(r"\.", scope))}
    names: dict[ir.Value, str] = {}
    taken = set(_RESERVED)
    for node, (scope, word) in paths.items():
        plain = f"{scope}.{word}".strip(".") if scope in larger else scope
        for value in node.outputs:
            name, count = plain, 0
            while name in taken:
                count += 1
                name = f"{plain}_{count}"
            taken.add(name)
            names[value] = name
    return names


def _path(node: ir.Node) -> tuple[str, str]:
    """The module that a node belongs to, and the name of its operation."""
    scopes = re.findall(r"'([^']*)'", node.metadata_props.get(SCOPES, ""))
    if len(scopes) > 1:
        return _plain(scopes[-2]), node.op_type
    whole = [part for part in (node.name or node.outputs[0].name or node.op_type).split("/") if part]
    # In PyTorch's paths /layer1/layer1.0/conv1 a part may begin with the whole part before it.
    parts = [part for part, after in zip(whole, [*whole[1:], ""], strict=True) if not after.startswith(f"{part}.")]
    *modules, word = map(_plain, parts)
    return ".".join(filter(None, modules)), word or node.op_type


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("._")
