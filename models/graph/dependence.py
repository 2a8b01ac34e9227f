"""The nodes of a graph that depend on the images or on their number."""

import operator
from typing import Any

from torch import fx

_FIXED_ATTRIBUTES = ("device", "dtype", "is_cuda", "ndim")
_FIXED_METHODS = ("dim", "get_device", "is_contiguous", "is_floating_point", "ndimension")


def nodes_of_images(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose values depend on the images or on their number, rather than on their height and width alone."""
    found: set[fx.Node] = set()
    shapes: set[fx.Node] = set()  # tuples, of whose elements only the first is the batch
    for node in graph.nodes:
        parents = set(node.all_input_nodes)
        if node.op == "placeholder":
            found.add(node)
        elif parents & shapes:
            if not (node.target is operator.getitem and _is_size(node.args[1])):
                found.add(node)
        elif parents & found:
            if _is_shape(node):
                shapes.add(node)
            elif not _is_fixed(node):
                found.add(node)
    return found | shapes


def _is_shape(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target == "size" and len(node.args) == 1 and not node.kwargs
    return bool(node.target is getattr and node.args[1] == "shape")


def _is_fixed(node: fx.Node) -> bool:
    if node.op == "call_method":
        by_index = node.target == "size" and len(node.args) == 2 and _is_size(node.args[1])
        return by_index or node.target in _FIXED_METHODS
    return node.target is getattr and node.args[1] in _FIXED_ATTRIBUTES


def _is_size(index: Any) -> bool:
    """True for the index of another size than the batch; -1 and -2 are those of images."""
    return bool(index in (-2, -1, 1, 2, 3))
