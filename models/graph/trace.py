"""Feature capture: every value inside a network under torchvision's node names, by tracing its graph.

Module hooks would miss functional calls and merge calls of a shared module; the traced graph has each call once.
"""

import copy
import inspect
import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import NodePathTracer

from models.errors import UserError

INPUT = "input"
_TORCHVISION_LAYERS = [
    member for _, member in inspect.getmembers(torchvision.ops, inspect.isclass) if issubclass(member, nn.Module)
]


@dataclass(frozen=True)
class Trace:
    """A network as a graph of named nodes, in the order of computation; `input` names the placeholder."""

    module: fx.GraphModule
    names: dict[fx.Node, str]

    def returning(self, names: Collection[str]) -> fx.GraphModule:
        """A module that maps the input to a tuple: the values named `names`, in that order, then the logits."""
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        logits = graph.graph_copy(self.module.graph, copies)
        by_name = {name: copies[node] for node, name in self.names.items()}
        graph.output((*(by_name[name] for name in names), logits))
        return fx.GraphModule(self.module, graph)


def trace(network: nn.Module) -> Trace:
    """Traces a copy of `network` in evaluation mode, with in-place operations replaced by ordinary ones.

    Raises:
        ValueError: the network cannot be traced symbolically, since its control flow depends on the data.
    """
    root = copy.deepcopy(network).eval()
    for module in root.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # a value that is overwritten cannot be shown
    # The same leaves and wrapped functions as torchvision's create_feature_extractor, so that names match.
    tracer = NodePathTracer(autowrap_modules=(math, torchvision.ops), leaf_modules=_TORCHVISION_LAYERS)
    try:
        graph = tracer.trace(root)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:  # the last two: range(x.shape[0]), len(x)
        raise UserError(f"{type(network).__name__} cannot be traced: {error}") from None
    for node in graph.nodes:
        if node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
    names: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            names[node] = INPUT
        elif node.op not in ("output", "get_attr"):
            names[node] = tracer.node_to_qualname[node]
    return Trace(fx.GraphModule(root, graph), names)


def inner_graph(module: nn.Module) -> fx.GraphModule | None:
    """The traced inside of a torchvision layer that `trace` shows as one node; None for torch's own layers."""
    if type(module).__module__.startswith("torch.nn"):
        return None
    try:
        return fx.GraphModule(module, trace_whole(module))
    except ValueError:
        return None


def trace_whole(module: nn.Module) -> fx.Graph:
    """The graph of a module down to torch's own layers.

    Raises:
        ValueError: it cannot be traced.
    """
    tracer = NodePathTracer(autowrap_modules=(math, torchvision.ops), leaf_modules=[])
    try:
        graph: fx.Graph = tracer.trace(module)
    except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
        raise UserError(f"{type(module).__name__} cannot be traced: {error}") from None
    return graph


def capture(network: nn.Module, x: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Runs a network once and returns the values inside it.

    Args:
        network: stays unchanged, including its training mode.
        x: normalised images (N, C, H, W).
        names: node names; None for all tensor nodes.

    Returns:
        Tensors (N, ...) by node name.

    Raises:
        ValueError: a name that the network does not have.
    """
    traced = trace(network)
    known = [name for name in traced.names.values() if name != INPUT]
    if unknown := [name for name in names or () if name not in known]:
        raise UserError(f"the network has no node {unknown[0]!r}; it has {', '.join(known)}")
    wanted = list(known if names is None else names)
    with torch.no_grad():
        *values, _ = traced.returning(wanted)(x)
    return {name: value for name, value in zip(wanted, values, strict=True) if isinstance(value, Tensor)}
