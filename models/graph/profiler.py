"""One run through a traced network, node by node, with notes of what each node returns, multiplies and sees."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from models.graph.receptive_field import ReceptiveField, Window, propagate, window_of
from models.graph.trace import inner_graph


class GraphProfiler(fx.Interpreter):
    """Runs a graph and takes notes; `counter` must be entered around the run for multiplications.

    Attributes:
        shapes: of tensors that depend on the image, without the batch.
        several: likewise nodes whose value is a tuple or list with tensors in it.
        macs: multiply-accumulates, those of matrix products inside functions and modules included.
    """

    def __init__(self, module: fx.GraphModule, reaches: Sequence[ReceptiveField | None]) -> None:
        super().__init__(module)
        self.counter = FlopCounterMode(display=False)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.several: set[fx.Node] = set()
        self.macs: dict[fx.Node, int] = {}
        self.reaches: dict[fx.Node, ReceptiveField | None] = {}
        self.windows: dict[fx.Node, Window] = {}
        self._given = iter(reaches)
        self._of_image: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node and takes its notes."""
        before = self.counter.get_total_flops()
        found = super().run_node(n)
        self.macs[n] = (self.counter.get_total_flops() - before) // 2  # a multiplication and an addition each
        if n.op == "output" or not (n.op == "placeholder" or self._of_image.intersection(n.all_input_nodes)):
            return found  # parameters, and what is computed of them alone
        self._of_image.add(n)
        if isinstance(found, Tensor):
            self.shapes[n] = tuple(found.shape[1:])
        elif isinstance(found, tuple | list) and any(isinstance(value, Tensor) for value in found):
            self.several.add(n)
        if n.op == "placeholder":
            self.reaches[n] = next(self._given, None)
        elif n in self.shapes or n in self.several:
            self._look(n, found)
        return found

    def module_of(self, n: fx.Node) -> nn.Module | None:
        """The module that a node calls, if it calls one."""
        return self.fetch_attr(str(n.target)) if n.op == "call_module" else None

    def _look(self, n: fx.Node, found: Any) -> None:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        parents = [self.reaches.get(p) for p in n.all_input_nodes if p in self.shapes or p in self.several]
        operation = self.module_of(n) or n.target
        if isinstance(operation, nn.Module) and (inside := inner_graph(operation)) is not None:
            inner = GraphProfiler(inside, parents)
            inner.run(*args, **kwargs)
            (last,) = inside.graph.output_node().all_input_nodes
            self.reaches[n] = inner.reaches.get(last)
            if len(inner.windows) == 1:  # a convolution with what belongs to it
                self.windows[n] = next(iter(inner.windows.values()))
            return
        self.reaches[n] = propagate(operation, args, kwargs, parents, found)
        if window := window_of(operation, args, kwargs):
            self.windows[n] = window
