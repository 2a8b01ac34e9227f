"""Checks that the logits of an image depend on this image alone."""

import copy
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from models.graph.example import blank_images
from models.graph.trace import Trace
from models.graph.tracer import untraceable

_SEEDS = 6
_RTOL = 1e-4  # torch may choose other kernels for another batch


def check_images_apart(traced: Trace, network: nn.Module, shape: Sequence[int]) -> None:
    """Checks that the logits of an image depend on this image alone, which export demands.

    Args:
        traced: the network, from `check_trace`.
        network: the same, which stays unchanged.
        shape: of one image, (channels, height, width).

    Raises:
        ValueError: they are random in evaluation mode, or depend on other images of the batch; the message has the line
            unless the random numbers are Python's or numpy's.
    """
    blank = blank_images(network, 2, shape)
    x = torch.randn(blank.shape, dtype=blank.dtype, generator=torch.Generator().manual_seed(0)).to(blank.device)
    both, again, alone = (_values(traced, *case) for case in ((x, 0), (x, 1), (x[:1], 0)))
    logits = both[-1][1]
    if not _same(again[-1][1], logits):
        _refuse(traced, network, both, again, "the result is random in evaluation mode; use self.training")
    if not _same(alone[-1][1], logits):
        _refuse(traced, network, both, alone, "the result for an image depends on the other images of its batch")
    if not all(_same(found, logits) for found in _with_other_seeds(network, x)):
        raise untraceable(network, None, "its logits are random in evaluation mode", cannot="exported")


def _refuse(
    traced: Trace, network: nn.Module, values: list[tuple[fx.Node, Any]], others: list[tuple[fx.Node, Any]], reason: str
) -> None:
    for (node, value), (_, other) in zip(values, others, strict=True):
        if not _same(other, value):
            raise untraceable(network, traced.lines.get(node), reason, cannot="exported")


def _values(traced: Trace, x: Tensor, seed: int) -> list[tuple[fx.Node, Any]]:
    """Tensors and numbers of the nodes that depend on the images, in the order of computation."""
    values: list[tuple[fx.Node, Any]] = []

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor | float) and (n in traced.names or n.op == "output"):
                values.append((n, value.clone() if isinstance(value, Tensor) else value))
            return value

    with torch.no_grad(), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(seed)
        Recorder(traced.module).run(x.clone())
    return values


def _with_other_seeds(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Logits of the network for other random numbers of Python and numpy, whose generators are restored."""
    eager = copy.deepcopy(network).eval()
    states = random.getstate(), np.random.get_state()  # the legacy generator is what networks use
    try:
        found = []
        for seed in range(_SEEDS):
            random.seed(seed)
            np.random.seed(seed)
            with torch.no_grad():
                found.append(eager(x.clone()))
        return found
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _same(found: Any, wanted: Any) -> bool:
    """True if both are equal, or `found` is the first of two images of `wanted`."""
    found, wanted = torch.as_tensor(found), torch.as_tensor(wanted)
    if found.shape != wanted.shape and wanted.ndim and wanted.shape[0] % 2 == 0:
        wanted = wanted[: len(wanted) // 2]
    if found.shape != wanted.shape or not wanted.is_floating_point() or not wanted.numel():
        return True  # a size, or a value that orders images in another way
    scale = float(wanted.abs().nan_to_num(posinf=0).max())
    return bool(torch.allclose(found, wanted, rtol=_RTOL, atol=_RTOL * scale, equal_nan=True))
