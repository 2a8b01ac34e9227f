"""Rules for how PyTorch's modules, functions and methods change receptive fields."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from models.graph.receptive_field import Pair, ReceptiveField, Window, union

_POINTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
    nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.BatchNorm2d, nn.LocalResponseNorm, nn.Dropout, nn.Dropout2d,
    nn.Identity,
)  # fmt: skip
_POINTWISE_CALLS = {
    torch.relu, torch.sigmoid, torch.tanh, torch.clamp, torch.add, torch.sub, torch.mul, torch.clone, functional.relu,
    functional.relu6, functional.leaky_relu, functional.elu, functional.silu, functional.gelu, functional.hardtanh,
    functional.hardswish, functional.hardsigmoid, functional.sigmoid, functional.tanh, functional.dropout,
    functional.dropout2d, functional.batch_norm, operator.add, operator.mul, operator.sub,
    operator.truediv, operator.neg, operator.iadd, operator.imul, torchvision.ops.stochastic_depth, "relu", "sigmoid",
    "tanh", "clamp", "contiguous", "clone", "add", "sub", "mul", "div",
}  # fmt: skip
_ALONG_CHANNELS = {torch.cat: 1, torch.chunk: 2, torch.split: 2, "chunk": 2, "split": 2}  # and the position of `dim`
_ADAPTIVE_MODULES = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_ADAPTIVE_CALLS = {functional.adaptive_avg_pool2d, functional.adaptive_max_pool2d}
_ARGUMENTS: dict[Any, tuple[str, ...]] = {
    functional.conv2d: ("weight", "bias", "stride", "padding", "dilation", "groups"),
    torch.conv2d: ("weight", "bias", "stride", "padding", "dilation", "groups"),
    functional.max_pool2d: ("kernel_size", "stride", "padding", "dilation"),
    torch.max_pool2d: ("kernel_size", "stride", "padding", "dilation"),
    functional.avg_pool2d: ("kernel_size", "stride", "padding"),
}


def window_of(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Window | None:
    """Kernel, stride, padding and dilation of a convolution or pool, module or function; None for everything else."""
    if isinstance(operation, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        given: Mapping[str, Any] = {name: getattr(operation, name, 1) for name in _ARGUMENTS[functional.max_pool2d]}
    elif _is_call(operation) and operation in _ARGUMENTS:
        given = {**dict(zip(_ARGUMENTS[operation], args[1:], strict=False)), **kwargs}
        if "weight" in given:
            given = {**given, "kernel_size": tuple(given["weight"].shape[-2:])}
        elif not given.get("stride"):
            given = {**given, "stride": given["kernel_size"]}
    else:
        return None
    kernel, dilation = _pair(given["kernel_size"]), _pair(given.get("dilation", 1))
    padding = given.get("padding", 0)
    if padding == "same":
        padding = (dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2)
    elif padding == "valid":
        padding = 0
    stride = _pair(given.get("stride", 1))
    return {"kernel": kernel, "stride": stride, "padding": _pair(padding), "dilation": dilation}


def propagate(
    operation: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    parents: Sequence[ReceptiveField | None],
    result: Any,
) -> ReceptiveField | None:
    """The receptive field of an operation's result.

    Args:
        operation: a module, a function or a method's name.
        args, kwargs: its arguments.
        parents: receptive fields of the tensors among them.
        result: its return value.

    Returns:
        None for a result that depends on the whole image or has no positions, and for an unknown operation.
    """
    field = union(parents)
    if field is None:
        return None
    if window := window_of(operation, args, kwargs):
        return field.through_window(window)
    if isinstance(operation, _ADAPTIVE_MODULES) or (_is_call(operation) and operation in _ADAPTIVE_CALLS):
        return _after_adaptive(field, args[0], result)
    if operation is operator.getitem:
        return _after_index(field, args[0], args[1])
    if operation is torch.permute or operation == "permute":
        return field.transposed(args[1:] if len(args) > 2 else args[1] if len(args) == 2 else kwargs.get("dims", ()))
    if isinstance(operation, nn.Linear):
        return field if field.channels_last else None
    if isinstance(operation, nn.LayerNorm):
        return field if field.channels_last and len(operation.normalized_shape) == 1 else None
    if operation is functional.layer_norm:
        shape = args[1] if len(args) > 1 else kwargs["normalized_shape"]
        return field if field.channels_last and len(shape) == 1 else None
    if _is_call(operation) and operation in _ALONG_CHANNELS:
        place = _ALONG_CHANNELS[operation]
        dim = args[place] if len(args) > place else kwargs.get("dim", 0)
        return field if dim in ((3, -1) if field.channels_last else (1, -3)) else None
    if operation is functional.pad:
        return _after_pad(field, args[1] if len(args) > 1 else kwargs["pad"])
    if isinstance(operation, _POINTWISE_MODULES) or (_is_call(operation) and operation in _POINTWISE_CALLS):
        return field if _same_positions(field, [*args, *kwargs.values()], result) else None
    return None


def _is_call(operation: Any) -> bool:
    return not isinstance(operation, nn.Module)


def _positions(field: ReceptiveField, x: Tensor) -> tuple[int, ...]:
    """The (H, W) of (N, C, H, W) or (N, H, W, C)."""
    return tuple(x.shape[1:3] if field.channels_last else x.shape[2:4])


def _same_positions(field: ReceptiveField, args: Sequence[Any], result: Any) -> bool:
    """True if each position of the result depends on the same, or the only, position of every argument."""
    several = [x for x in args if isinstance(x, Tensor) and x.ndim == 4]
    return all(_positions(field, x) in (_positions(field, result), (1, 1)) for x in several)


def _after_pad(field: ReceptiveField, pad: Sequence[int]) -> ReceptiveField:
    before = [*pad[::2], 0, 0, 0]  # last dimension first
    left, top = before[1:3] if field.channels_last else before[:2]
    return field.sliced((-top, -left))


def _after_adaptive(field: ReceptiveField, x: Tensor, result: Any) -> ReceptiveField | None:
    """Adaptive pools with equal windows are ordinary pools; a global pool depends on the whole image."""
    y = result[0] if isinstance(result, tuple) else result
    (height, width), (rows, columns) = x.shape[-2:], y.shape[-2:]
    if (height, width) == (rows, columns):
        return field
    if height % rows or width % columns or (rows, columns) == (1, 1):
        return None
    step = (height // rows, width // columns)
    return field.through_window({"kernel": step, "stride": step, "padding": (0, 0), "dilation": (1, 1)})


def _after_index(field: ReceptiveField, x: Any, index: Any) -> ReceptiveField | None:
    """`x[..., 1::2, ::2]` selects positions; an integer selects one of several tensors."""
    if not isinstance(x, Tensor):
        return field
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * (5 - len(parts))
    parts += [slice(None)] * (4 - len(parts))
    if x.ndim != 4 or not all(isinstance(part, slice) for part in parts):
        return None
    along = parts[1:3] if field.channels_last else parts[2:4]
    (top, _, down), (left, _, across) = (
        part.indices(size) for part, size in zip(along, _positions(field, x), strict=True)
    )
    return field.sliced((top, left), (down, across))


def _pair(value: Any) -> Pair:
    if isinstance(value, int):
        return (value, value)
    return (int(value[0]), int(value[-1]))
