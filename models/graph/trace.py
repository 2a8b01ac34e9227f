"""Feature capture: every value inside a network under torchvision's node names, by tracing its graph.

Module hooks would miss functional calls and merge calls of a shared module; the traced graph has each call once.
"""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from models.errors import UserError
from models.graph.dependence import nodes_of_images
from models.graph.example import blank_images
from models.graph.in_place import make_ordinary, may_write
from models.graph.source_line import SourceLine
from models.graph.tracer import FeatureTracer

INPUT = "input"


@dataclass(frozen=True)
class Trace:
    """A network as a graph of named nodes, in the order of computation; `input` names the placeholder.

    Attributes:
        module: the graph.
        names: of the nodes that depend on the images; others, such as a grid of coordinates, are constants in a file.
        lines: the nodes' lines in the network's source.
    """

    module: fx.GraphModule
    names: dict[fx.Node, str]
    lines: dict[fx.Node, SourceLine | None] = field(default_factory=dict)

    def returning(self, names: Collection[str]) -> fx.GraphModule:
        """A module that maps the input to a tuple: the values named `names`, in that order, then the logits."""
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        logits = graph.graph_copy(self.module.graph, copies)
        by_name = {name: copies[node] for node, name in self.names.items()}
        graph.output((*(by_name[name] for name in names), logits))
        return fx.GraphModule(self.module, graph)


def trace(network: nn.Module, shape: Sequence[int]) -> Trace:
    """Traces a copy of `network` in evaluation mode, with in-place operations replaced by ordinary ones.

    Args:
        shape: of one image, (channels, height, width), by which conditions on shapes are decided; the graph takes any
            number of images.

    Raises:
        ValueError: the network cannot be traced symbolically: its control flow depends on the data or on the number of
            images, or it overwrites a value in a way that has no ordinary form. The message has the line.
    """
    root = copy.deepcopy(network).eval()
    tracer = FeatureTracer(shape)
    graph = tracer.trace_graph(root)
    if may_write(root, graph):  # a value that is overwritten cannot be shown
        make_ordinary(root, graph, tracer.lines, blank_images(root, 2, shape))
    names: dict[fx.Node, str] = {}
    depending = nodes_of_images(graph)
    for node in graph.nodes:
        if node.op == "placeholder":
            names[node] = INPUT
        elif node in depending and node.op not in ("output", "get_attr"):
            names[node] = tracer.node_to_qualname[node]
    return Trace(fx.GraphModule(root, graph), names, dict(tracer.lines))


def inner_graph(module: nn.Module) -> fx.GraphModule | None:
    """The traced inside of a torchvision layer that `trace` shows as one node; None for torch's own layers."""
    if type(module).__module__.startswith("torch.nn"):
        return None
    try:
        return fx.GraphModule(module, trace_whole(module))
    except ValueError:
        return None


def trace_whole(module: nn.Module, shape: Sequence[int] | None = None) -> fx.Graph:
    """The graph of a module down to torch's own layers, with its in-place operations.

    Args:
        shape: of one image, as in `trace`; None to refuse conditions on shapes.

    Raises:
        ValueError: it cannot be traced.
    """
    return FeatureTracer(shape, whole=True).trace_graph(module)


def capture(network: nn.Module, x: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Runs a network once and returns the values inside it.

    Args:
        network: stays unchanged, including its training mode.
        x: normalised images (N, C, H, W).
        names: node names; None for all tensor nodes.

    Returns:
        Tensors (N, ...) by node name.

    Raises:
        ValueError: the network cannot be traced, or has no node of a name.
    """
    traced = trace(network, x.shape[1:])
    known = [name for name in traced.names.values() if name != INPUT]
    if unknown := [name for name in names or () if name not in known]:
        raise UserError(f"the network has no node {unknown[0]!r}; it has {', '.join(known)}")
    wanted = list(known if names is None else names)
    with torch.no_grad():
        *values, _ = traced.returning(wanted)(x)
    return {name: value for name, value in zip(wanted, values, strict=True) if isinstance(value, Tensor)}
