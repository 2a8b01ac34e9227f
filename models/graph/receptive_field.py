"""How far one position of a value sees into the image, and what each kind of operation adds to that.

Araujo, Norris and Sim, Computing Receptive Fields of Convolutional Neural Networks (Distill 2019).
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from models.graph.node import Pair

Window = dict[str, Any]  # each a Pair: kernel, stride, padding, dilation

_POINTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
    nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.BatchNorm2d, nn.LocalResponseNorm, nn.Dropout, nn.Dropout2d,
    nn.Identity,
)  # fmt: skip
_POINTWISE_CALLS = {
    torch.relu, torch.sigmoid, torch.tanh, torch.add, torch.sub, torch.mul, torch.clone, functional.relu,
    functional.relu6, functional.leaky_relu, functional.elu, functional.silu, functional.gelu, functional.hardtanh,
    functional.hardswish, functional.hardsigmoid, functional.sigmoid, functional.tanh, functional.dropout,
    functional.dropout2d, functional.batch_norm, functional.pad, operator.add, operator.mul, operator.sub,
    operator.truediv, operator.neg, operator.iadd, operator.imul, torchvision.ops.stochastic_depth, "relu", "sigmoid",
    "tanh", "contiguous", "clone", "add", "sub", "mul", "div",
}  # fmt: skip
_SPLITS = {torch.chunk, torch.split, "chunk", "split"}
_ADAPTIVE_MODULES = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_ADAPTIVE_CALLS = {functional.adaptive_avg_pool2d, functional.adaptive_max_pool2d}
_ARGUMENTS: dict[Any, tuple[str, ...]] = {
    functional.conv2d: ("weight", "bias", "stride", "padding", "dilation", "groups"),
    torch.conv2d: ("weight", "bias", "stride", "padding", "dilation", "groups"),
    functional.max_pool2d: ("kernel_size", "stride", "padding", "dilation"),
    torch.max_pool2d: ("kernel_size", "stride", "padding", "dilation"),
    functional.avg_pool2d: ("kernel_size", "stride", "padding"),
}
_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


@dataclass(frozen=True)
class ReceptiveField:
    """Receptive field and jump of a value, (vertical, horizontal) in input pixels.

    `last` says where its channels are: (N, H, W, C) if true, else (N, C, H, W).
    """

    field: Pair = (1, 1)
    jump: Pair = (1, 1)
    last: bool = False

    def through(self, window: Window) -> "ReceptiveField":
        """The reach after a convolution or pool (eq. 2 of the paper)."""
        kernel, stride, dilation = window["kernel"], window["stride"], window["dilation"]
        y, x = (self.field[i] + dilation[i] * (kernel[i] - 1) * self.jump[i] for i in (0, 1))
        return replace(self, field=(y, x), jump=(self.jump[0] * stride[0], self.jump[1] * stride[1]))


def window_of(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Window | None:
    """kernel, stride, padding and dilation of a convolution or pool, module or function; None for everything else."""
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
    found: Any,
) -> ReceptiveField | None:
    """The receptive field of what an operation returns.

    Args:
        operation: a module, a function or a method's name.
        args, kwargs: what it is called with.
        parents: the reaches of the tensors among them.
        found: what it returns.

    Returns:
        None for what sees the whole image, has no positions, or cannot be told.
    """
    widest = widest_of(parents)
    if widest is None:
        return None
    if window := window_of(operation, args, kwargs):
        return widest.through(window)
    if isinstance(operation, _ADAPTIVE_MODULES) or (_is_call(operation) and operation in _ADAPTIVE_CALLS):
        return _after_adaptive(widest, args[0], found)
    if operation is operator.getitem:
        return _after_index(widest, args[0], args[1])
    if operation is torch.permute or operation == "permute":
        return _after_permute(widest, args, kwargs)
    if isinstance(operation, nn.Linear):
        return widest if widest.last else None
    if isinstance(operation, nn.LayerNorm):
        return widest if widest.last and len(operation.normalized_shape) == 1 else None
    if operation is functional.layer_norm:
        return widest if widest.last and len(args[1] if len(args) > 1 else kwargs["normalized_shape"]) == 1 else None
    if _is_call(operation) and operation in _SPLITS:
        return widest if _along_channels(widest, args[2] if len(args) > 2 else kwargs.get("dim", 0)) else None
    if operation is torch.cat:
        return widest if _along_channels(widest, args[1] if len(args) > 1 else kwargs.get("dim", 0)) else None
    if operation is functional.pad:
        return widest if _is_aligned(widest, args[1] if len(args) > 1 else kwargs["pad"]) else None
    if isinstance(operation, _POINTWISE_MODULES) or (_is_call(operation) and operation in _POINTWISE_CALLS):
        return widest if _same_positions(widest, [*args, *kwargs.values()], found) else None
    return None


def widest_of(parents: Sequence[ReceptiveField | None]) -> ReceptiveField | None:
    """The widest field of several values, which are laid out alike; None if one is unknown, or they are not."""
    known = [parent for parent in parents if parent is not None]
    if not parents or len(known) < len(parents) or len({(parent.jump, parent.last) for parent in known}) != 1:
        return None
    fields = [parent.field for parent in known]
    return replace(known[0], field=(max(field[0] for field in fields), max(field[1] for field in fields)))


def _is_call(operation: Any) -> bool:
    return not isinstance(operation, nn.Module)


def _along_channels(reach: ReceptiveField, dim: int) -> bool:
    return dim in ((3, -1) if reach.last else (1, -3))


def _positions(reach: ReceptiveField, x: Tensor) -> tuple[int, ...]:
    """The (H, W) of (N, C, H, W) or (N, H, W, C)."""
    return tuple(x.shape[1:3] if reach.last else x.shape[2:4])


def _same_positions(reach: ReceptiveField, args: Sequence[Any], found: Any) -> bool:
    """Whether each position of the result comes of the same one of all that is combined, or of (1, 1)."""
    several = [x for x in args if isinstance(x, Tensor) and x.ndim == 4]
    return all(_positions(reach, x) in (_positions(reach, found), (1, 1)) for x in several)


def _is_aligned(reach: ReceptiveField, pad: Sequence[int]) -> bool:
    """Whether a pad moves no position, or all as a convolution's own would: equal before and after, or after alone.

    What moved otherwise would, beside another part, widen what both see.
    """
    pairs = list(zip(pad[::2], pad[1::2], strict=True))[1 if reach.last else 0 :][:2]
    return all(before in (0, after) for before, after in pairs)


def _after_adaptive(reach: ReceptiveField, x: Tensor, found: Any) -> ReceptiveField | None:
    """Even pools are ordinary ones; what pools all of several positions into one sees the whole image."""
    y = found[0] if isinstance(found, tuple) else found
    (height, width), (rows, columns) = x.shape[-2:], y.shape[-2:]
    if (height, width) == (rows, columns):
        return reach
    if height % rows or width % columns or (rows, columns) == (1, 1):
        return None
    step = (height // rows, width // columns)
    return reach.through({"kernel": step, "stride": step, "padding": (0, 0), "dilation": (1, 1)})


def _after_index(reach: ReceptiveField, x: Any, index: Any) -> ReceptiveField | None:
    """`x[..., ::2, ::2]` steps over positions; an integer takes one of several tensors.

    What does not begin at the first position cannot be told: beside another part it would widen what both see.
    """
    if not isinstance(x, Tensor):
        return reach
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * (5 - len(parts))
    parts += [slice(None)] * (4 - len(parts))
    if x.ndim != 4 or not all(isinstance(part, slice) for part in parts):
        return None
    along = parts[1:3] if reach.last else parts[2:4]
    if any(part.start for part in along):
        return None
    vertical, horizontal = (part.step or 1 for part in along)
    return replace(reach, jump=(reach.jump[0] * vertical, reach.jump[1] * horizontal))


def _after_permute(reach: ReceptiveField, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ReceptiveField | None:
    dims = args[1:] if len(args) > 2 else args[1] if len(args) == 2 else kwargs.get("dims", ())
    if tuple(dims) == (_TO_FIRST if reach.last else _TO_LAST):
        return replace(reach, last=not reach.last)
    return None


def _pair(value: Any) -> Pair:
    if isinstance(value, int):
        return (value, value)
    return (int(value[0]), int(value[-1]))
