"""Compares a traced network with the network itself, by numbers."""

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from models.errors import UserError
from models.graph.example import blank_images
from models.graph.trace import Trace, trace

_RTOL = 1e-4  # torch may choose other kernels for the same layer


def check_trace(network: nn.Module, shape: Sequence[int]) -> Trace:
    """Traces a network, and compares what each layer receives and returns, and the logits, with the network's own.

    It is compared in evaluation mode and stays unchanged, and no random numbers are taken from the global generator.

    Args:
        shape: of one image, (channels, height, width).

    Returns:
        The traced network.

    Raises:
        ValueError: the network cannot be traced, or its graph computes something else.
    """
    traced = trace(network, shape)
    x = blank_images(network, 2, shape)
    x = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0)).to(x.device)
    name = type(network).__name__
    running: list[fx.Node] = []
    try:
        with torch.no_grad():
            wanted = _seeded(lambda: _values_of_network(network, traced, x.clone()), x)
            found = _seeded(lambda: _values_of_graph(traced, x.clone(), running), x)
    except Exception as error:  # custom code may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        line = traced.lines.get(running[-1]) if running else None
        raise UserError(
            f"{name} cannot be traced: its graph does not take {tuple(x.shape)} images: {reason}"
            f"{line.quoted if line else ''}"
        ) from error
    for path in wanted:
        if not _close(found.get(path, []), wanted[path]):
            place = f"at {path}" if path else "in its logits"
            raise UserError(
                f"{name} cannot be traced: the graph differs from the network {place}; its forward changes values in "
                "place in a way that tracing does not see, or takes another path for other images"
            )
    return traced


def _values_of_network(network: nn.Module, traced: Trace, x: Tensor) -> dict[str, list[Tensor]]:
    """Arguments and results of every call of the traced layers, by their paths, and the logits under an empty name."""
    eager = copy.deepcopy(network).eval()
    values: dict[str, list[Tensor]] = defaultdict(list)

    def keep_for(path: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            values[path] += _copies((args, kwargs))  # before anything overwrites them

        def after(module: nn.Module, args: Any, result: Any) -> None:
            values[path] += _copies(result)

        return before, after

    for path in dict.fromkeys(str(node.target) for node in traced.names if node.op == "call_module"):
        before, after = keep_for(path)
        eager.get_submodule(path).register_forward_pre_hook(before, with_kwargs=True)
        eager.get_submodule(path).register_forward_hook(after)
    logits = eager(x)
    return {**values, "": [logits]}


def _values_of_graph(traced: Trace, x: Tensor, running: list[fx.Node]) -> dict[str, list[Tensor]]:
    """The same from the graph; `running` gets the nodes that it runs."""
    values: dict[str, list[Tensor]] = defaultdict(list)

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            running.append(n)
            return super().run_node(n)

        def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
            result = super().call_module(target, args, kwargs)
            values[target] += _copies((args, kwargs)) + _copies(result)
            return result

    logits = Recorder(traced.module).run(x)
    return {**values, "": [logits]}


def _copies(value: Any) -> list[Tensor]:
    return [leaf.clone() for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _seeded(compute: Callable[[], dict[str, list[Tensor]]], x: Tensor) -> dict[str, list[Tensor]]:
    """The same random numbers for both, for networks that draw some in evaluation mode, too."""
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(0)
        return compute()


def _close(found: list[Tensor], wanted: list[Tensor]) -> bool:
    if [value.shape for value in found] != [value.shape for value in wanted]:
        return False
    return all(
        torch.allclose(f, w, rtol=_RTOL, atol=_RTOL * float(w.abs().nan_to_num(posinf=0).max()), equal_nan=True)
        for f, w in zip(found, wanted, strict=True)
        if w.numel()
    )
