"""Runs a traced network once and records shapes, multiplications and receptive fields node by node."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from models.graph.receptive_field import ReceptiveField, Window
from models.graph.torch_rules import propagate, window_of
from models.graph.trace import inner_graph


class GraphProfiler(fx.Interpreter):
    """Runs a graph and records properties of its nodes; multiplications only while `counter` is entered.

    Attributes:
        shapes: shapes of tensors that depend on the image, without the batch.
        several: nodes whose value is a tuple or list that contains such tensors.
        macs: multiply-accumulates, including those of matrix products inside functions and modules.
        fields: receptive fields of both kinds of nodes.
        windows: windows of convolutions and pools.
    """

    def __init__(self, module: fx.GraphModule, inputs: Sequence[ReceptiveField | None]) -> None:
        super().__init__(module)
        self.counter = FlopCounterMode(display=False)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.several: set[fx.Node] = set()
        self.macs: dict[fx.Node, int] = {}
        self.fields: dict[fx.Node, ReceptiveField | None] = {}
        self.windows: dict[fx.Node, Window] = {}
        self._inputs = iter(inputs)
        self._of_image: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node and records its properties."""
        before = self.counter.get_total_flops()
        result = super().run_node(n)
        self.macs[n] = (self.counter.get_total_flops() - before) // 2  # one multiplication and one addition each
        if n.op == "output" or not (n.op == "placeholder" or self._of_image.intersection(n.all_input_nodes)):
            return result  # parameters, and values computed from them alone
        self._of_image.add(n)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape[1:])
        elif isinstance(result, tuple | list) and any(isinstance(value, Tensor) for value in result):
            self.several.add(n)
        if n.op == "placeholder":
            self.fields[n] = next(self._inputs, None)
        elif n in self.shapes or n in self.several:
            self._record(n, result)
        return result

    def module_of(self, n: fx.Node) -> nn.Module | None:
        """The module that a node calls, if any."""
        return self.fetch_attr(str(n.target)) if n.op == "call_module" else None

    def _record(self, n: fx.Node, result: Any) -> None:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        parents = [self.fields.get(p) for p in n.all_input_nodes if p in self.shapes or p in self.several]
        operation = self.module_of(n) or n.target
        if isinstance(operation, nn.Module) and (inside := inner_graph(operation)) is not None:
            inner = GraphProfiler(inside, parents)
            inner.run(*args, **kwargs)
            (last,) = inside.graph.output_node().all_input_nodes
            self.fields[n] = inner.fields.get(last)
            if len(inner.windows) == 1:  # a block around a single convolution
                self.windows[n] = next(iter(inner.windows.values()))
            return
        self.fields[n] = propagate(operation, args, kwargs, parents, result)
        if window := window_of(operation, args, kwargs):
            self.windows[n] = window
