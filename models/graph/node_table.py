"""The node table of a network: shapes, parameters, multiplications and receptive fields over its real graph."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.graph.node import Node
from models.graph.profiler import GraphProfiler
from models.graph.receptive_field import ReceptiveField
from models.graph.trace import INPUT, trace
from models.images.decode import InputSpec


def node_table(network: nn.Module, spec: InputSpec) -> tuple[Node, ...]:
    """All tensor nodes of a network, in the order of computation, `input` left out.

    What a node without a row has (an attention layer, whose value is a tuple; a parameter that the network itself
    uses, such as a class token) stands in the first row that uses it, so that the totals are complete.

    Raises:
        ValueError: the network cannot be traced, or does not take images of this size.
    """
    traced = trace(network)
    walk = GraphProfiler(traced.module, [ReceptiveField()])
    device = next((parameter.device for parameter in network.parameters()), None)
    x = torch.zeros(1, spec.channels, spec.height, spec.width, device=device)
    try:
        with torch.no_grad(), _countable_attention(), walk.counter:
            walk.run(x)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(f"the network does not take {tuple(x.shape)} images: {error}") from None
    accounts = _Accounts(walk)
    rows: list[Node] = []
    for node, name in traced.names.items():
        if name == INPUT or node not in walk.shapes:
            continue
        shape, reach = walk.shapes[node], walk.reaches[node]
        parameters, macs = accounts.settle(node)
        row = Node(
            name=name,
            op=_operation_name(node, walk),
            parents=tuple(dict.fromkeys(traced.names[parent] for parent in _shown_parents(node, walk))),
            shape=shape,
            parameters=parameters,
            macs=macs,
            receptive_field=reach.field if reach and len(shape) == 3 else None,
            jump=reach.jump if reach and len(shape) == 3 else None,
            **walk.windows.get(node, {}),
        )
        rows.append(row)
    return tuple(rows)


class _Accounts:
    """Hands out each parameter and each node's multiplications once."""

    def __init__(self, walk: GraphProfiler) -> None:
        self._walk = walk
        self._settled: set[fx.Node] = set()
        self._counted: set[int] = set()  # ids of parameters

    def settle(self, node: fx.Node) -> tuple[int, int]:
        """Parameters and multiply-accumulates of `node`, and of what it uses that has no row of its own."""
        if node in self._settled:
            return 0, 0
        self._settled.add(node)
        held: list[nn.Parameter] = []
        if node.op == "call_module":
            held = list(self._walk.fetch_attr(str(node.target)).parameters())
        elif node.op == "get_attr" and isinstance(tensor := self._walk.fetch_attr(str(node.target)), nn.Parameter):
            held = [tensor]
        parameters = sum({id(p): p.numel() for p in held if id(p) not in self._counted}.values())
        self._counted |= {id(p) for p in held}
        macs = self._walk.macs[node]
        for parent in node.all_input_nodes:
            if parent not in self._walk.shapes:
                more = self.settle(parent)
                parameters, macs = parameters + more[0], macs + more[1]
        return parameters, macs


def _operation_name(node: fx.Node, walk: GraphProfiler) -> str:
    """The layer's class or the function's name; what takes a tensor out of a layer's tuple is that layer."""
    first = next((parent for parent in node.all_input_nodes if parent in walk.several), None)
    module = walk.module_of(node) or (first and walk.module_of(first))
    return type(module).__name__ if module else getattr(node.target, "__name__", str(node.target))


def _shown_parents(node: fx.Node, walk: GraphProfiler) -> Iterator[fx.Node]:
    """The nodes with rows that `node` is computed from, tuples being passed through."""
    for parent in node.all_input_nodes:
        if parent in walk.shapes:
            yield parent
        elif parent in walk.several:
            yield from _shown_parents(parent, walk)


@contextmanager
def _countable_attention() -> Iterator[None]:
    """Attention as matrix products, which the counter knows, not as one fused operation, which it may not."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
