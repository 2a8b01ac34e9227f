"""Receptive fields by gradients, the reference of the tests here."""

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from models.graph.receptive_field import Box
from models.graph.trace import trace

_PASSING = (nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.Sigmoid, nn.Tanh)
_PASSING_CALLS = (torch.relu, torch.sigmoid, torch.tanh, functional.relu, functional.relu6, functional.hardswish)


def positive(network: nn.Module) -> nn.Module:
    """Positive weights keep relu open and let no contributions cancel."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_((torch.rand_like(parameter) + 0.1) / max(1, parameter[0].numel()))
    return network.double().eval()


def extent(y: Tensor, x: Tensor, row: int, column: int) -> Box:
    """The pixels of x (1, 1, H, W) with a gradient from one position of y, a feature map computed from it."""
    (gradient,) = torch.autograd.grad(y[..., row, column].sum(), x, retain_graph=True)
    rows, columns = (gradient[0, 0].abs().sum(axis).nonzero() for axis in (1, 0))
    return Box(int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)


def influence(network: nn.Module, size: int) -> tuple[Box, tuple[int, int]]:
    """The extent of the output's middle position, which an image of this size does not cut off, and that position."""
    x = torch.rand(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    y = positive(network)(x)
    middle = y.shape[-2] // 2, y.shape[-1] // 2
    box = extent(y, x, *middle)
    assert 0 < box.top and box.bottom < size and 0 < box.left and box.right < size, "cut off"
    return box, middle


class LinearValues(fx.Interpreter):
    """All values of a network by node name, without its parameters: what gradients reach depends on windows alone.

    Kernels are ones over the mean of all channels, norms and activations pass everything, and pools are averages, since
    a largest value passes the gradient of one position only.
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        traced = trace(network, (1, size, size))
        super().__init__(traced.module, garbage_collect_values=False)
        self._names = traced.names
        self.values: dict[str, Any] = {}

    def run_until_refused(self, x: Tensor) -> dict[str, Any]:
        """Runs up to the first layer that needs parameters: the head, which takes one size of image."""
        with suppress(RuntimeError):
            self.run(x)
        return self.values

    def run_node(self, n: fx.Node) -> Any:
        found = super().run_node(n)
        if n in self._names:
            self.values[self._names[n]] = found
        return found

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module, x = self.fetch_attr(target), args[0]
        if isinstance(module, _PASSING):
            return x
        if isinstance(module, nn.Conv2d):
            ones = torch.ones(1, 1, *module.kernel_size, dtype=x.dtype)
            y = functional.conv2d(x.mean(1, keepdim=True), ones, None, module.stride, module.padding, module.dilation)
            return y.expand(-1, module.out_channels, -1, -1)
        if isinstance(module, nn.MaxPool2d):
            assert module.dilation == 1
            return self._average(x, module.kernel_size, module.stride, module.padding, ceil_mode=module.ceil_mode)
        return super().call_module(target, args, kwargs)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in _PASSING_CALLS:
            return args[0]
        if target is functional.max_pool2d:
            return self._average(*args, **kwargs)
        return super().call_function(target, args, kwargs)

    @staticmethod
    def _average(
        x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, *, ceil_mode: bool = False
    ) -> Tensor:
        return functional.avg_pool2d(x, kernel_size, stride or kernel_size, padding, ceil_mode)
