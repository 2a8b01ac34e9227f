"""Symbolic tracing of a network: torchvision's node names, in-place operators, conditions on shapes, source lines."""

import inspect
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torchvision
from torch import fx, nn
from torch.fx.proxy import Attribute, Proxy, TraceError
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
            graph: fx.Graph = self.trace(network)
        except Exception as error:  # custom code may raise anything, and proxies differ from tensors
            reason = (str(error) or type(error).__name__).splitlines()[0]
            if "cannot be interpreted as an integer" in reason:
                reason = "a size is needed as a number here; write int(...) around it"
            raise untraceable(network, failed_line(error.__traceback__), reason) from error
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


def untraceable(network: nn.Module, line: SourceLine | None, reason: str) -> UserError:
    """The error for a network that cannot be traced."""
    place = f"{line}: " if line else ""
    quoted = f" (`{line.text}`)" if line and line.text else ""
    return UserError(f"{type(network).__name__} cannot be traced: {place}{reason}{quoted}")


class _Operations:
    """Operations that `fx.Proxy` lacks: they change a value, or return a number."""

    def __setitem__(self: Any, index: Any, value: Any) -> None:
        raise TraceError("assigning to elements has no ordinary form; use torch.cat, torch.where or a product")

    def __len__(self: Any) -> int:
        return self.tracer.length(self)  # type: ignore[no-any-return]

    def __int__(self: Any) -> int:
        return int(self.tracer.decide(self))


def _in_place(operation: Callable[..., Any], ordinary: Callable[..., Any]) -> Callable[[Any, Any], Proxy]:
    def apply(self: Any, other: Any) -> Proxy:
        # Under the ordinary name, which torchvision gives it.
        return self.tracer.create_proxy("call_function", operation, (self, other), {}, name=ordinary.__name__)  # type: ignore[no-any-return]

    return apply


for _operation, _ordinary in IN_PLACE_OPERATORS.items():
    setattr(_Operations, f"__{_operation.__name__}__", _in_place(_operation, _ordinary))


class TracedValue(_Operations, Proxy):
    def __getattr__(self, name: str) -> Attribute:
        return TracedAttribute(self, name)


class TracedAttribute(_Operations, Attribute):
    def __getattr__(self, name: str) -> Attribute:
        return TracedAttribute(self, name)
