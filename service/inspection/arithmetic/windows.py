"""Operators that slide a window, convolutions and pools, with the padding and rounding of the ONNX operators."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from export.engines.onnx_graph import Operation
from service.inspection.arithmetic.terms import Arithmetic, Index, Terms, Values, take, total, weighted_sum


def convolution(operation: Operation, index: Index, values: Values) -> Arithmetic | None:
    """Conv: a kernel's weights times the patch of every input channel of the group, and the bias.

    The ONNX operator `Conv`, cross-correlation in any number of dimensions.
    """
    source, kernel = operation.inputs[0], operation.inputs[1]
    if values.is_computed(kernel):
        return None
    weights = values[kernel]  # (out, in / groups, height, width)
    batch, channel, *position = index
    first = channel // (weights.shape[0] // operation.attributes.get("group", 1)) * weights.shape[1]
    channels = range(first, first + weights.shape[1])
    axes = _window(operation, values[source].shape[2:], weights.shape[2:], position)
    terms = take(values, source, [(batch,), channels, *axes], weights[channel][np.newaxis])
    biases = values.optional(operation, 2)
    return weighted_sum([terms], 0.0 if biases is None else float(biases[channel]), formula="sum(w * x) + b")


def max_pool(operation: Operation, index: Index, values: Values) -> Arithmetic | None:
    """MaxPool: the largest value of a window; padding never wins."""
    if len(operation.outputs) > 1 and operation.outputs[1]:
        return None  # positions of the maxima are asked for as well; no classifier of ours has them
    return largest([_pool_terms(operation, index, values)])


def average_pool(operation: Operation, index: Index, values: Values) -> Arithmetic | None:
    """AveragePool: the mean of a window, with or without its padding (`count_include_pad`)."""
    terms = _pool_terms(operation, index, values)
    inside = np.ones(terms.values.shape) if terms.padding is None else (~terms.padding).astype(np.float64)
    count = inside.sum()
    if operation.attributes.get("count_include_pad", 0):
        sizes = values[operation.inputs[0]].shape[2:]
        kernel = operation.attributes["kernel_shape"]
        _, ends = _pads(operation, sizes, kernel)
        # Padding counts; what a rounded-up output size adds behind the padding does not.
        count = 1
        for axis, size, end in zip(terms.source.axes[2:], sizes, ends, strict=True):
            count *= sum(place < size + end for place in axis)
    return weighted_sum([replace(terms, weights=inside / count)], formula="sum(x) / n", n=float(count))


def largest(terms: Sequence[Terms], *, sign: int = 1) -> Arithmetic:
    """The arithmetic of a maximum, or with `sign` -1 of a minimum; the first of equal values wins."""
    best, winner = -np.inf, (0, 0)
    for number, one in enumerate(terms):
        candidates = sign * one.values if one.padding is None else np.where(one.padding, -np.inf, sign * one.values)
        place = int(candidates.argmax())
        if candidates.flat[place] > best or number == 0:
            best, winner = float(candidates.flat[place]), (number, place)
    weighted = []
    for number, one in enumerate(terms):
        weights = np.zeros(one.values.shape)
        if number == winner[0]:
            weights.flat[winner[1]] = 1
        weighted.append(replace(one, weights=weights))
    kind, formula = ("maximum", "max(x)") if sign > 0 else ("minimum", "min(x)")
    return Arithmetic(kind, tuple(weighted), total(weighted), formula=formula)  # type: ignore[arg-type]


def _pool_terms(operation: Operation, index: Index, values: Values) -> Terms:
    source = operation.inputs[0]
    batch, channel, *position = index
    axes = _window(operation, values[source].shape[2:], operation.attributes["kernel_shape"], position)
    return take(values, source, [(batch,), (channel,), *axes])


def _window(
    operation: Operation, sizes: Sequence[int], kernel: Sequence[int], position: Sequence[int]
) -> list[tuple[int, ...]]:
    """Positions along each spatial axis that the window covers."""
    strides, dilations = _strides(operation, kernel), operation.attributes.get("dilations", [1] * len(kernel))
    begins, _ = _pads(operation, sizes, kernel)
    return [
        tuple(place * stride - begin + dilation * step for step in range(size))
        for place, stride, begin, dilation, size in zip(position, strides, begins, dilations, kernel, strict=True)
    ]


def _strides(operation: Operation, kernel: Sequence[int]) -> Sequence[int]:
    found: Sequence[int] = operation.attributes.get("strides", [1] * len(kernel))
    return found


def _pads(operation: Operation, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """Padding before the beginning and after the end of each spatial axis."""
    how = operation.attributes.get("auto_pad", b"NOTSET")
    dilations = operation.attributes.get("dilations", [1] * len(kernel))
    if how in (b"SAME_UPPER", b"SAME_LOWER"):
        begins, ends = [], []
        for size, stride, length, dilation in zip(sizes, _strides(operation, kernel), kernel, dilations, strict=True):
            needed = max((-(-size // stride) - 1) * stride + dilation * (length - 1) + 1 - size, 0)
            small, large = needed // 2, needed - needed // 2
            begins.append(small if how == b"SAME_UPPER" else large)
            ends.append(large if how == b"SAME_UPPER" else small)
        return begins, ends
    pads = operation.attributes.get("pads", [0] * 2 * len(kernel)) if how != b"VALID" else [0] * 2 * len(kernel)
    return pads[: len(kernel)], pads[len(kernel) :]
