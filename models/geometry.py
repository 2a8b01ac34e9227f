"""The node table of a network: shapes, parameters, multiplications and receptive fields over its real graph."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from models.capture import INPUT, Trace, trace
from models.inputs import InputSpec
from models.nodes import Node, Pair

_POINTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid,
    nn.BatchNorm2d, nn.Dropout, nn.Dropout2d, nn.Identity,
)  # fmt: skip
_POINTWISE_CALLS = {
    torch.relu, torch.sigmoid, torch.tanh, torch.add, torch.mul, torch.cat, functional.relu, functional.relu6,
    functional.silu, functional.gelu, functional.hardtanh, functional.sigmoid, functional.dropout, functional.pad,
    operator.add, operator.mul, operator.sub, "relu", "sigmoid", "tanh", "contiguous", "add", "mul",
}  # fmt: skip
_POOL_CALLS: dict[Callable[..., Any], type[nn.Module]] = {
    functional.max_pool2d: nn.MaxPool2d,
    torch.max_pool2d: nn.MaxPool2d,
    functional.avg_pool2d: nn.AvgPool2d,
}
_POOL_ARGUMENTS = ("kernel_size", "stride", "padding")
_Reach = tuple[Pair, Pair] | None  # (receptive field, jump); None: the whole image, or unknown


def node_table(network: nn.Module, spec: InputSpec) -> tuple[Node, ...]:
    """All tensor nodes of a network, in the order of computation, `input` left out.

    Raises:
        ValueError: the network cannot be traced, or does not take images of this size.
    """
    traced = trace(network)
    shapes = _shapes(traced, spec)
    reaches: dict[str, _Reach] = {INPUT: ((1, 1), (1, 1))}
    counted: set[str] = set()  # modules whose parameters stand in a row already
    rows: list[Node] = []
    for node, name in traced.names.items():
        parents = _parents(node, traced)
        module = traced.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        window = _window(node, module)
        if name != INPUT:
            reaches[name] = _reach(node, module, window, [reaches[parent] for parent in parents])
        if name == INPUT or name not in shapes:
            continue
        first = module is not None and str(node.target) not in counted
        counted.add(str(node.target))
        shape, reach = shapes[name], reaches[name]
        row = Node(
            name=name,
            op=type(module).__name__ if module is not None else getattr(node.target, "__name__", str(node.target)),
            parents=tuple(parents),
            shape=shape,
            parameters=sum(p.numel() for p in module.parameters()) if module is not None and first else 0,
            macs=_macs(module, shape),
            receptive_field=reach[0] if reach and len(shape) == 3 else None,
            jump=reach[1] if reach and len(shape) == 3 else None,
            **window,
        )
        rows.append(row)
    return tuple(rows)


def _shapes(traced: Trace, spec: InputSpec) -> dict[str, tuple[int, ...]]:
    names = list(traced.names.values())
    x = torch.zeros(1, spec.channels, spec.height, spec.width)
    try:
        with torch.no_grad():
            *values, _ = traced.returning(names)(x)
    except RuntimeError as error:
        raise ValueError(f"the network does not take {tuple(x.shape)} images: {error}") from None
    return {
        name: tuple(value.shape[1:]) for name, value in zip(names, values, strict=True) if isinstance(value, Tensor)
    }


def _parents(node: fx.Node, traced: Trace) -> list[str]:
    return [traced.names[parent] for parent in node.all_input_nodes if parent in traced.names]


def _window(node: fx.Node, module: nn.Module | None) -> dict[str, Any]:
    """kernel, stride, padding and dilation of a convolution or pool; empty for everything else."""
    if node.op == "call_function" and node.target in _POOL_CALLS:
        given = {**dict(zip(_POOL_ARGUMENTS, node.args[1:], strict=False)), **node.kwargs}
        module = _POOL_CALLS[node.target](**{key: given[key] for key in _POOL_ARGUMENTS if given.get(key) is not None})
    if not isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return {}
    kernel = _pair(module.kernel_size)
    dilation = _pair(getattr(module, "dilation", 1))
    padding = module.padding
    if padding == "same":
        padding = (dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2)
    elif padding == "valid":
        padding = 0
    return {"kernel": kernel, "stride": _pair(module.stride), "padding": _pair(padding), "dilation": dilation}


def _reach(node: fx.Node, module: nn.Module | None, window: dict[str, Any], parents: list[_Reach]) -> _Reach:
    if not parents or any(parent is None for parent in parents):
        return None
    known = [parent for parent in parents if parent is not None]
    (field_y, field_x), jump = max(field for field, _ in known), known[0][1]
    field_x = max(field[1] for field, _ in known)
    if window:
        kernel, stride, dilation = window["kernel"], window["stride"], window["dilation"]
        field_y += dilation[0] * (kernel[0] - 1) * jump[0]
        field_x += dilation[1] * (kernel[1] - 1) * jump[1]
        return (field_y, field_x), (jump[0] * stride[0], jump[1] * stride[1])
    if node.target is operator.getitem:
        step_y, step_x = _steps(node.args[1])
        return (field_y, field_x), (jump[0] * step_y, jump[1] * step_x)
    if isinstance(module, _POINTWISE_MODULES) or node.target in _POINTWISE_CALLS:
        return (field_y, field_x), jump
    return None


def _steps(index: Any) -> Pair:
    """Vertical and horizontal step of `x[..., ::2, ::2]`."""
    parts = [part for part in index if part is not Ellipsis] if isinstance(index, tuple) else [index]
    steps = [part.step or 1 for part in parts[-2:] if isinstance(part, slice)] if len(parts) > 2 else []
    return (int(steps[0]), int(steps[1])) if len(steps) == 2 else (1, 1)


def _macs(module: nn.Module | None, shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    if isinstance(module, nn.Conv2d):
        return size * module.kernel_size[0] * module.kernel_size[1] * module.in_channels // module.groups
    return size * module.in_features if isinstance(module, nn.Linear) else 0


def _pair(value: Any) -> Pair:
    return (int(value[0]), int(value[1])) if isinstance(value, tuple) else (int(value), int(value))
