"""Symbolic tracing of a network: torchvision's node names, in-place operators, conditions on shapes, source lines."""

import inspect
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torchvision
from torch import fx, nn
from torch.fx.proxy import Attribute, Proxy, TraceError
from torch.utils._pytree import tree_leaves
from torchvision.models.feature_extraction import NodePathTracer

from models.errors import UserError
from models.graph.shape_values import ShapeValues
from models.graph.source_line import SourceLine, current_line, failed_line

# `x += y` is an operation of its own: it also changes every other name of x. fx alone records `x + y`.
IN_PLACE_OPERATORS: dict[Callable[..., Any], Callable[..., Any]] = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul,
    operator.itruediv: operator.truediv, operator.ifloordiv: operator.floordiv, operator.imod: operator.mod,
    operator.ipow: operator.pow, operator.imatmul: operator.matmul, operator.iand: operator.and_,
    operator.ior: operator.or_, operator.ixor: operator.xor, operator.ilshift: operator.lshift,
    operator.irshift: operator.rshift,
}  # fmt: skip
_ABOUT_TYPES = ("isinstance(", "is_tensor(", "type(")
# Functions that take sizes without a tensor, by which torch recognises stand-ins.
_FACTORIES = ("arange", "empty", "eye", "full", "linspace", "ones", "zeros")
_TORCHVISION_LAYERS = [
    member for _, member in inspect.getmembers(torchvision.ops, inspect.isclass) if issubclass(member, nn.Module)
]


class FeatureTracer(NodePathTracer):  # type: ignore[misc]  # torchvision has no annotations
    """Traces with the leaves and wrapped functions of torchvision's create_feature_extractor, so that names match.

    Args:
        shape: of one image, (channels, height, width), to decide conditions on shapes; None to refuse all conditions.
        whole: trace through torchvision's layers, too.

    Attributes:
        lines: source lines of the nodes.
    """

    def __init__(self, shape: Sequence[int] | None = None, *, whole: bool = False) -> None:
        leaves = [] if whole else _TORCHVISION_LAYERS
        super().__init__(autowrap_modules=(math, torchvision.ops), leaf_modules=leaves)
        self.lines: dict[fx.Node, SourceLine | None] = {}
        self._shape = shape
        self._shapes: ShapeValues | None = None
        self._decided: list[fx.Node] = []

    def trace_graph(self, network: nn.Module) -> fx.Graph:
        """The network's graph, in which in-place operations are as in its source.

        Raises:
            ValueError: it cannot be traced; the message has the line of its source.
        """
        try:
            if self._shape is not None:
                self._shapes = ShapeValues(network, self._shape)
            with self._recorded_factories():
                graph: fx.Graph = self.trace(network)
        except Exception as error:  # custom code may raise anything, and proxies differ from tensors
            reason = (str(error) or type(error).__name__).splitlines()[0]
            line = failed_line(error.__traceback__)
            if line and any(word in line.text for word in _ABOUT_TYPES):
                reason = (
                    f"{reason}; tracing calls forward with stand-ins, which are no tensors: do not ask for their type"
                )
            raise untraceable(network, line, reason) from error
        self._erase_decided(graph)
        self._shapes = None
        for name, value in network.named_buffers():
            if isinstance(value, Proxy):
                reason = f"forward changes the buffer {name}; evaluation must leave it as it is"
                raise untraceable(network, self.lines.get(value.node), reason)
        return graph

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Also records the source line."""
        node: fx.Node = super().create_node(*args, **kwargs)
        self.lines[node] = current_line(inspect.currentframe())
        return node

    def proxy(self, node: fx.Node) -> Proxy:
        """A value in the network's `forward`."""
        return TracedValue(node, self)

    def to_bool(self, obj: Proxy) -> bool:
        """Decides a condition on shapes."""
        return bool(self.decide(obj))

    def iter(self, obj: Proxy) -> Iterator[Any]:
        """The elements of a tensor or tuple whose number is fixed."""
        return iter([obj[i] for i in range(self.length(obj))])  # type: ignore[index]  # added at run time

    def decide(self, obj: Proxy) -> Any:
        """The value of a number, a size or a condition that depends on shapes only."""
        self._decided.append(obj.node)
        return self._known_shapes().decide(obj.node)

    def length(self, obj: Proxy) -> int:
        """The fixed number of elements of a tensor or tuple."""
        self._decided.append(obj.node)
        return self._known_shapes().length(obj.node)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """Traces `forward` with images alone, so that its other parameters have their defaults."""
        kinds = [parameter for parameter in list(inspect.signature(root_fn).parameters.values())[1:]]
        needed = [
            one
            for one in kinds
            if one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        ]
        if not is_module or len(kinds) == 1 or len(needed) > 1:
            return super().create_args_for_root(root_fn, is_module, concrete_args)

        def forward(self: nn.Module, x: Any) -> Any:
            return root_fn(self, x)

        return super().create_args_for_root(forward, is_module, concrete_args)

    @contextmanager
    def _recorded_factories(self) -> Iterator[None]:
        """Records calls such as `torch.zeros(x.shape[0], 3)`, which torch would refuse, inside the block, and decides
        the conditions of `torch._check`."""
        originals = {name: getattr(torch, name) for name in (*_FACTORIES, "_check")}
        try:
            for name in _FACTORIES:
                setattr(torch, name, self._recorded(originals[name]))
            torch._check = lambda condition, *rest: originals["_check"](bool(condition), *rest)
            yield
        finally:
            for name, original in originals.items():
                setattr(torch, name, original)

    def _recorded(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if any(isinstance(leaf, Proxy) for leaf in tree_leaves((args, kwargs))):
                return self.create_proxy("call_function", original, args, kwargs)
            return original(*args, **kwargs)

        return call

    def _erase_decided(self, graph: fx.Graph) -> None:
        """Removes decided conditions, and the numbers that only they are computed from."""
        pending = list(self._decided)
        erased: set[fx.Node] = set()
        while pending and self._shapes is not None:
            node = pending.pop()
            if node not in erased and not node.users and self._shapes.is_number(node):
                pending.extend(node.all_input_nodes)
                graph.erase_node(node)
                erased.add(node)

    def _known_shapes(self) -> ShapeValues:
        if self._shapes is None:
            raise TraceError("symbolically traced variables cannot be used as inputs to control flow")
        return self._shapes


def untraceable(network: nn.Module, line: SourceLine | None, reason: str, *, cannot: str = "traced") -> UserError:
    """The error for a network that cannot be traced, or not exported."""
    place = f"{line}: " if line else ""
    quoted = f" (`{line.text}`)" if line and line.text else ""
    return UserError(f"{type(network).__name__} cannot be {cannot}: {place}{reason}{quoted}")


class _Operations:
    """Operations that `fx.Proxy` lacks: they change a value, or return a number."""

    def __setitem__(self: Any, index: Any, value: Any) -> None:
        raise TraceError("assigning to elements has no ordinary form; use torch.cat, torch.where or a product")

    def __len__(self: Any) -> int:
        return self.tracer.length(self)  # type: ignore[no-any-return]

    def __int__(self: Any) -> int:
        return int(self.tracer.decide(self))

    def __index__(self: Any) -> int:
        return operator.index(self.tracer.decide(self))

    def __float__(self: Any) -> float:
        return float(self.tracer.decide(self))

    def __format__(self: Any, form: str) -> str:
        try:
            return format(self.tracer.decide(self), form)
        except TraceError:
            if form:
                raise
            return repr(self)  # in a message

    def __str__(self: Any) -> str:
        return format(self)


def _in_place(operation: Callable[..., Any], ordinary: Callable[..., Any]) -> Callable[[Any, Any], Proxy]:
    def apply(self: Any, other: Any) -> Proxy:
        # Under the ordinary name, which torchvision gives it.
        return self.tracer.create_proxy("call_function", operation, (self, other), {}, name=ordinary.__name__)  # type: ignore[no-any-return]

    return apply


for _operation, _ordinary in IN_PLACE_OPERATORS.items():
    setattr(_Operations, f"__{_operation.__name__}__", _in_place(_operation, _ordinary))


_DATA = "`data` has no ordinary form; use the value itself, or detach()"


class TracedValue(_Operations, Proxy):
    @property
    def data(self) -> Proxy:
        """Refused: writes to it escape the version counter, and exporters do not know it."""
        if self.node.op == "get_attr":  # a parameter, of which the refusal of a write says more
            return TracedAttribute(self, "data")
        raise TypeError(_DATA)

    @data.setter
    def data(self, value: object) -> None:
        raise TypeError(_DATA)

    def __getattr__(self, name: str) -> Attribute:
        return TracedAttribute(self, name)


class TracedAttribute(_Operations, Attribute):
    def __getattr__(self, name: str) -> Attribute:
        return TracedAttribute(self, name)
