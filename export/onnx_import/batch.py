"""Frees a batch that is frozen inside a graph, as it is when a network is exported with a fixed batch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from export.onnx_import.graph import WrappedGraph

_PREFIX = "convscope:batch"


def free_batch(graph: WrappedGraph, values: Mapping[str, Any], batch: int) -> int:
    """Rewrites operations whose constant sizes begin with the batch: Reshape, Expand, Resize, Concat with constants.

    The result is right only if the first axis of these values is that of the images, so it must be compared with the
    original.

    Args:
        graph: changed.
        values: what the network computes for `batch` images, by name.
        batch: the frozen one.

    Returns:
        The number of operations changed.
    """
    rewriter = _Rewriter(graph, values, batch)
    return sum(rewriter.rewrite(node) for node in graph.nodes)


class _Rewriter:
    def __init__(self, graph: WrappedGraph, values: Mapping[str, Any], batch: int) -> None:
        self._graph, self._values, self._batch = graph, values, batch
        self._of_image = {graph.first}
        self._count = 0

    def rewrite(self, node: ir.Node) -> bool:
        depends = any(value in self._of_image for value in node.inputs)
        changed = False
        if node.op_type == "Reshape" and depends:
            changed = self._reshape(node)
        elif node.op_type == "Expand":
            changed = self._sizes(node, 1)
        elif node.op_type == "Resize" and depends and len(node.inputs) > 3:
            changed = self._sizes(node, 3)
        elif node.op_type == "Concat" and depends and node.attributes.get_int("axis", 0) != 0:
            changed = sum(self._expand(node, i) for i in range(len(node.inputs))) > 0
        if depends or changed:
            self._of_image.update(node.outputs)
        return changed

    def _reshape(self, node: ir.Node) -> bool:
        """Lets the first size follow from the others, which are known."""
        sizes, found = self._numbers(node.inputs[1]), self._values.get(node.outputs[0].name or "")
        if sizes is None or not len(sizes) or sizes[0] < 1 or not isinstance(found, np.ndarray):
            return False
        if found.shape[0] % self._batch or 0 in found.shape:
            return False
        node.replace_input_with(1, self._constant(node, [-1, *found.shape[1:]]))
        return True

    def _sizes(self, node: ir.Node, place: int) -> bool:
        sizes = self._numbers(node.inputs[place])
        if sizes is None or len(sizes) < 2 or sizes[0] != self._batch:
            return False
        node.replace_input_with(place, self._with_batch(node, sizes[1:].tolist()))
        return True

    def _expand(self, node: ir.Node, place: int) -> bool:
        """Repeats a constant that is joined with values of the images."""
        value = node.inputs[place]
        tensor = None if value is None or value in self._of_image else ir.convenience.get_const_tensor(value)
        if value is None or tensor is None or len(tensor.shape) < 2 or tensor.shape[0] != 1 or self._batch != 1:
            return False
        ones = [1] * (len(tensor.shape) - 1)
        expanded = ir.node("Expand", [value, self._with_batch(node, ones)], name=self._name())
        expanded.outputs[0].name = expanded.name
        self._graph.model.graph.insert_before(node, expanded)
        node.replace_input_with(place, expanded.outputs[0])
        return True

    def _numbers(self, value: ir.Value | None) -> Any:
        """Numbers that do not depend on the images, constants or computed from constants; None for others."""
        if value is None or value in self._of_image:
            return None
        tensor = ir.convenience.get_const_tensor(value)
        found = self._values.get(value.name or "") if tensor is None else tensor.numpy()
        return found.reshape(-1) if isinstance(found, np.ndarray) else None

    def _with_batch(self, node: ir.Node, sizes: list[int]) -> ir.Value:
        """The number of images and then `sizes`, computed before a node."""
        shape = ir.node("Shape", [self._graph.first], name=self._name())
        count = ir.node("Gather", [shape.outputs[0], self._constant(node, [0])], {"axis": 0}, name=self._name())
        rest = self._constant(node, sizes)
        whole = ir.node("Concat", [count.outputs[0], rest], {"axis": 0}, name=self._name())
        for made in (shape, count, whole):
            made.outputs[0].name = made.name
        self._graph.model.graph.insert_before(node, [shape, count, whole])
        return whole.outputs[0]

    def _constant(self, node: ir.Node, numbers: list[int]) -> ir.Value:
        made = ir.node("Constant", [], {"value": ir.tensor(np.array(numbers, np.int64))}, name=self._name())
        made.outputs[0].name = made.name
        self._graph.model.graph.insert_before(node, made)
        return made.outputs[0]

    def _name(self) -> str:
        self._count += 1
        return f"{_PREFIX}.{self._count}"
