"""Rewrites operations that write over a value into ordinary ones, so that every value can be shown as computed."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from models.errors import UserError
from models.graph.source_line import SourceLine
from models.graph.tracer import IN_PLACE_OPERATORS, untraceable

_KNOWN_LIBRARIES = ("torch", "torchvision", "_operator", "builtins", "math", "None")
# As methods of a tensor that forward creates: `torch.ones(1) += x`.
_IN_PLACE_METHODS = {f"__{operation.__name__}__": ordinary for operation, ordinary in IN_PLACE_OPERATORS.items()}
_CREATED = "_tensor_constant"  # fx's attributes for tensors that forward creates
# Without the underscore these names mean something else.
_WITHOUT_ORDINARY_FORM = ("apply_", "bernoulli_", "copy_", "map_", "normal_", "resize_", "resize_as_", "set_")


def may_write(network: nn.Module, graph: fx.Graph) -> bool:
    """True if an operation of the graph may write over a value."""
    return any(_may_write(network, node) for node in graph.nodes)


def make_ordinary(network: nn.Module, graph: fx.Graph, lines: Mapping[fx.Node, SourceLine | None], x: Tensor) -> None:
    """Replaces in-place operations and modules, and lets later uses of a changed value read the result.

    The graph runs once as it is, which shows what every operation changes.

    Args:
        network: the traced one; its modules no longer work in place afterwards.
        lines: source lines of the nodes.
        x: images (N, C, H, W), which stay unchanged.

    Raises:
        ValueError: an operation has no ordinary form, or changes a value that is later read under another shape; or the
            network does not take x.
    """
    try:
        with torch.inference_mode(False), torch.no_grad():  # inference tensors count no changes
            _Rewriter(network, graph, lines).run(x.clone())
    except UserError:
        raise
    except Exception as error:  # custom code may raise anything
        raise UserError(f"the network does not take {tuple(x.shape)} images: {error}") from error
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    for node in graph.nodes:
        if node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
        if node.op == "call_function":
            node.target = IN_PLACE_OPERATORS.get(node.target, node.target)


class _Rewriter(fx.Interpreter):
    """Runs a graph and rewrites each operation that has changed one of its arguments."""

    def __init__(self, network: nn.Module, graph: fx.Graph, lines: Mapping[fx.Node, SourceLine | None]) -> None:
        # Values are kept: those of one memory are compared, and memory is not used again.
        super().__init__(network, garbage_collect_values=False, graph=graph)
        self.extra_traceback = False
        self._network, self._lines = network, lines
        self._order = {node: i for i, node in enumerate(graph.nodes)}
        self._own = {_memory(tensor) for tensor in (*network.parameters(), *network.buffers())}

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node; rewrites it if it is an in-place operation."""
        if n.op == "get_attr" and not str(n.target).startswith(_CREATED):
            self._own |= {_memory(tensor) for tensor in _tensors(self.fetch_attr(str(n.target)))}
        before = [(tensor, tensor._version) for tensor in _tensors(self.fetch_args_kwargs_from_env(n))]
        result = super().run_node(n)
        changed = [tensor for tensor, version in before if tensor._version != version]
        if changed:
            self._rewrite(n, result, changed)
        return result

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Copies a tensor that forward creates anew for each call."""
        value = super().get_attr(target, args, kwargs)
        return value.clone() if target.startswith(_CREATED) else value

    def _rewrite(self, node: fx.Node, result: Any, changed: list[Tensor]) -> None:
        name = _name(node)
        if any(_memory(tensor) in self._own for tensor in changed):
            raise self._refusal(node, f"{name} changes a parameter or buffer; evaluation must leave them as they are")
        if not isinstance(result, Tensor) or not any(_same(tensor, result) for tensor in changed):
            raise self._refusal(node, f"{name} changes a value in place and has no ordinary form here")
        for other, value in self.env.items():
            later = [user for user in other.users if self._order[user] > self._order[node]]
            if not later:
                continue
            if isinstance(value, Tensor) and _same(value, result):
                for user in later:
                    user.replace_input_with(other, node)
            elif any(_overlap(tensor, result) for tensor in _tensors(value)):
                reason = f"{name} also changes another value that shares its memory and is read later"
                raise self._refusal(node, f"{reason}; use the ordinary form")
        if not _to_ordinary(self._network, node):
            raise self._refusal(node, f"{name} changes a value in place and has no ordinary form")

    def _refusal(self, node: fx.Node, reason: str) -> UserError:
        return untraceable(self._network, self._lines.get(node), reason)


def _may_write(network: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(network.get_submodule(str(node.target)), "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    name = _name(node)
    # An operator of torch.ops has its overload behind the name; other libraries may do anything.
    known = node.op == "call_method" or str(getattr(node.target, "__module__", None)).split(".")[0] in _KNOWN_LIBRARIES
    return (
        not known
        or (name.split(".")[0].endswith("_") and not name.endswith("__"))
        or node.target in IN_PLACE_OPERATORS
        or name in _IN_PLACE_METHODS
        or bool(node.kwargs.get("inplace"))
        or node.kwargs.get("out") is not None
    )


def _to_ordinary(network: nn.Module, node: fx.Node) -> bool:
    """Changes a node's operation into the ordinary one of the same result; False if there is none."""
    if node.op == "call_module":
        return bool(getattr(network.get_submodule(str(node.target)), "inplace", False))  # switched off later
    if node.kwargs.get("inplace") or node.target in IN_PLACE_OPERATORS:
        return True  # likewise
    if node.kwargs.get("out") is not None:
        node.kwargs = {key: value for key, value in node.kwargs.items() if key != "out"}
        return True
    name = _name(node)
    if name in _IN_PLACE_METHODS:
        node.op, node.target = "call_function", _IN_PLACE_METHODS[name]
        return True
    if not name.endswith("_") or name.endswith("__") or name in _WITHOUT_ORDINARY_FORM:
        return False
    if name == "zero_":
        node.op, node.target = "call_function", torch.zeros_like
        return True
    plain = name.removesuffix("_")
    if node.op == "call_method" and hasattr(Tensor, plain):
        node.target = plain
        return True
    for library in (torch, functional):
        if hasattr(library, plain):
            node.op, node.target = "call_function", getattr(library, plain)
            return True
    return False


def _name(node: fx.Node) -> str:
    return str(node.target) if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _tensors(value: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _same(first: Tensor, second: Tensor) -> bool:
    """True if both are the same elements in the same order."""
    if first is second:
        return True
    layouts = [(x.dtype, x.shape, x.stride(), x.storage_offset()) for x in (first, second)]
    return _memory(first) == _memory(second) and layouts[0] == layouts[1]


def _overlap(first: Tensor, second: Tensor) -> bool:
    """True if a write to one may change the other."""
    if _memory(first) != _memory(second) or not first.numel() or not second.numel():
        return False
    if first.dtype != second.dtype:  # such as the real view of a complex tensor
        return True
    count = math.ceil(first.untyped_storage().nbytes() / first.itemsize)
    taken = torch.zeros(count, dtype=torch.bool, device="cpu")  # the network may be on the meta device
    taken.as_strided(first.shape, first.stride(), first.storage_offset()).fill_(True)
    return bool(taken.as_strided(second.shape, second.stride(), second.storage_offset()).any())
