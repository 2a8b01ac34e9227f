"""The node table of a network: shapes, parameters, multiplications and receptive fields from its traced graph."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.errors import UserError
from models.graph.node import Node
from models.graph.profiler import GraphProfiler
from models.graph.receptive_field import ReceptiveField
from models.graph.trace import INPUT, trace
from models.images.input_spec import InputSpec


def node_table(network: nn.Module, spec: InputSpec) -> tuple[Node, ...]:
    """All tensor nodes of a network, in the order of computation, without `input`.

    Parameters and multiplications of a node without a row (an attention layer, whose value is a tuple; a parameter
    that the network itself uses, such as a class token) count in the first row that uses it, so that the totals are
    complete.

    Raises:
        ValueError: the network cannot be traced, or does not take images of this size.
    """
    traced = trace(network, (spec.channels, spec.height, spec.width))
    profiler = GraphProfiler(traced.module, [ReceptiveField()])
    device = next((parameter.device for parameter in network.parameters()), None)
    x = torch.zeros(1, spec.channels, spec.height, spec.width, device=device)
    try:
        with torch.no_grad(), _countable_attention(), profiler.counter:
            profiler.run(x)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(f"the network does not take {tuple(x.shape)} images: {error}") from None
    for node in profiler.shapes.keys() - traced.names.keys():
        del profiler.shapes[node]  # constants
    accounts = _Accounts(profiler)
    rows: list[Node] = []
    for node, name in traced.names.items():
        if name == INPUT or node not in profiler.shapes:
            continue
        shape = profiler.shapes[node]
        field = profiler.fields[node] if len(shape) == 3 else None
        parameters, macs = accounts.settle(node)
        row = Node(
            name=name,
            op=_operation_name(node, profiler),
            parents=tuple(dict.fromkeys(traced.names[parent] for parent in _shown_parents(node, profiler))),
            shape=shape,
            parameters=parameters,
            macs=macs,
            receptive_field=field.size if field else None,
            jump=field.jump if field else None,
            start=field.start if field else None,
            **profiler.windows.get(node, {}),
        )
        rows.append(row)
    return tuple(rows)


class _Accounts:
    """Assigns each parameter and each node's multiplications to one row."""

    def __init__(self, profiler: GraphProfiler) -> None:
        self._profiler = profiler
        self._settled: set[fx.Node] = set()
        self._counted: set[int] = set()  # ids of parameters

    def settle(self, node: fx.Node) -> tuple[int, int]:
        """Parameters and multiply-accumulates of `node` and of its inputs without a row."""
        if node in self._settled:
            return 0, 0
        self._settled.add(node)
        held: list[nn.Parameter] = []
        if node.op == "call_module":
            held = list(self._profiler.fetch_attr(str(node.target)).parameters())
        elif node.op == "get_attr" and isinstance(tensor := self._profiler.fetch_attr(str(node.target)), nn.Parameter):
            held = [tensor]
        parameters = sum({id(p): p.numel() for p in held if id(p) not in self._counted}.values())
        self._counted |= {id(p) for p in held}
        macs = self._profiler.macs[node]
        for parent in node.all_input_nodes:
            if parent not in self._profiler.shapes:
                more = self.settle(parent)
                parameters, macs = parameters + more[0], macs + more[1]
        return parameters, macs


def _operation_name(node: fx.Node, profiler: GraphProfiler) -> str:
    """The layer's class or the function's name; an element of a layer's tuple has that layer's class."""
    first = next((parent for parent in node.all_input_nodes if parent in profiler.several), None)
    module = profiler.module_of(node) or (first and profiler.module_of(first))
    return type(module).__name__ if module else getattr(node.target, "__name__", str(node.target))


def _shown_parents(node: fx.Node, profiler: GraphProfiler) -> Iterator[fx.Node]:
    """The nodes with rows that `node` is computed from, also through tuples."""
    for parent in node.all_input_nodes:
        if parent in profiler.shapes:
            yield parent
        elif parent in profiler.several:
            yield from _shown_parents(parent, profiler)


@contextmanager
def _countable_attention() -> Iterator[None]:
    """Runs attention as matrix products, since the counter may not support the fused operation."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
