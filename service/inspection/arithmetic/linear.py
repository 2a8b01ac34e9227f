"""Linear operators: matrix products, sums, products with constants, means, and batch normalization."""

import numpy as np

from export.engines.onnx_graph import Operation
from service.inspection.arithmetic.terms import (
    Arithmetic,
    Index,
    Source,
    Terms,
    Values,
    broadcast_index,
    element,
    take,
    weighted_sum,
)
from service.inspection.arithmetic.windows import largest


def gemm(operation: Operation, index: Index, values: Values) -> Arithmetic | None:
    """Gemm: `alpha * A B + beta * C`, either matrix transposed on request; B holds the weights."""
    left, right = operation.inputs[:2]
    row, column = index
    if not values.is_computed(left) or values.is_computed(right):
        return None
    attributes = operation.attributes
    weights = values[right][column] if attributes.get("transB", 0) else values[right][:, column]
    weights = attributes.get("alpha", 1.0) * weights.astype(np.float64)
    every = range(len(weights))
    if attributes.get("transA", 0):
        terms = [take(values, left, [every, (row,)], weights[:, np.newaxis])]
    else:
        terms = [take(values, left, [(row,), every], weights[np.newaxis])]
    bias, beta = 0.0, attributes.get("beta", 1.0)
    if (added := values.optional(operation, 2)) is not None:
        place = broadcast_index(index, added.shape)
        if values.is_computed(operation.inputs[2]):
            terms.append(element(values, operation.inputs[2], place, beta))
        else:
            bias = float(beta * added[place])
    return weighted_sum(terms, bias, formula="sum(w * x) + b")


def matrix_product(operation: Operation, index: Index, values: Values) -> Arithmetic | None:
    """MatMul, as numpy's; of two values that depend on the image the second holds the weights."""
    names = operation.inputs
    left, right = values[names[0]], values[names[1]]
    if left.ndim < 2 or right.ndim < 2:
        return None
    batch, (row, column) = index[:-2], index[-2:]
    every = tuple(range(left.shape[-1]))
    first = [*((place,) for place in broadcast_index(batch, left.shape[:-2])), (row,), every]
    second = [*((place,) for place in broadcast_index(batch, right.shape[:-2])), every, (column,)]
    left_row = take(values, names[0], first)
    right_column = take(values, names[1], second)
    if not values.is_computed(names[0]):
        weights = left_row.values.reshape(right_column.values.shape)
        return weighted_sum([take(values, names[1], second, weights)], formula="sum(w * x)")
    weights = right_column.values.reshape(left_row.values.shape)
    origin = right_column.source if values.is_computed(names[1]) else None
    return weighted_sum([take(values, names[0], first, weights, weights_source=origin)], formula="sum(w * x)")


def addition(operation: Operation, index: Index, values: Values) -> Arithmetic | None:
    """Add, Sub, Sum and Mean of values and constants of any shapes that broadcast."""
    weights = [1.0, -1.0] if operation.op == "Sub" else [1.0] * len(operation.inputs)
    if operation.op == "Mean":
        weights = [1 / len(operation.inputs)] * len(operation.inputs)
    terms, bias = [], 0.0
    for name, weight in zip(operation.inputs, weights, strict=True):
        place = broadcast_index(index, values[name].shape)
        if values.is_computed(name):
            terms.append(element(values, name, place, weight))
        else:
            bias += weight * float(values[name][place])
    return weighted_sum(terms, bias, formula="sum(w * x) + b")


def multiplication(operation: Operation, index: Index, values: Values) -> Arithmetic | None:
    """Mul and Div by a constant or by another value."""
    first, second = operation.inputs
    places = [broadcast_index(index, values[name].shape) for name in operation.inputs]
    numbers = [float(values[name][place]) for name, place in zip(operation.inputs, places, strict=True)]
    if operation.op == "Mul":
        if not values.is_computed(first):
            first, second, places, numbers = second, first, places[::-1], numbers[::-1]
        if not values.is_computed(second):
            return weighted_sum([element(values, first, places[0], numbers[1])], formula="w * x")
        return _product(values, first, places[0], numbers[1], Source(second, _alone(places[1])))
    if values.is_computed(first) and not values.is_computed(second):
        return weighted_sum([element(values, first, places[0], 1 / numbers[1])], formula="x / c", c=numbers[1])
    terms = tuple(
        element(values, name, place)
        for name, place in zip(operation.inputs, places, strict=True)
        if values.is_computed(name)
    )
    details = {} if values.is_computed(first) else {"c": numbers[0]}
    formula = "x / y" if values.is_computed(first) else "c / x"
    return Arithmetic("function", terms, numbers[0] / numbers[1], formula=formula, details=details)


def extreme(operation: Operation, index: Index, values: Values) -> Arithmetic | None:
    """Max and Min of several values, element by element; a constant among them is left to the unknown."""
    if not all(values.is_computed(name) for name in operation.inputs):
        return None
    terms = [element(values, name, broadcast_index(index, values[name].shape)) for name in operation.inputs]
    return largest(terms, sign=1 if operation.op == "Max" else -1)


def reduction(operation: Operation, index: Index, values: Values) -> Arithmetic | None:
    """ReduceMean, ReduceSum, ReduceMax and ReduceMin over axes, and the global pools, which are such."""
    source = operation.inputs[0]
    shape = values[source].shape
    if operation.op.startswith("Global"):
        reduced, kept = set(range(2, len(shape))), True
    else:
        given = values.optional(operation, 1)
        axes = operation.attributes.get("axes", []) if given is None else given.tolist()
        if not axes and operation.attributes.get("noop_with_empty_axes", 0):
            return weighted_sum([element(values, source, index, 1.0)], formula="x")
        reduced = {axis % len(shape) for axis in axes} or set(range(len(shape)))
        kept = bool(operation.attributes.get("keepdims", 1))
    places = iter(index)
    positions: list[range | tuple[int, ...]] = []
    for axis, size in enumerate(shape):
        if axis in reduced:
            positions.append(range(size))
            if kept:
                next(places)
        else:
            positions.append((next(places),))
    terms = take(values, source, positions)
    if operation.op in ("ReduceMax", "GlobalMaxPool", "ReduceMin"):
        return largest([terms], sign=-1 if operation.op == "ReduceMin" else 1)
    count = terms.values.size
    if operation.op == "ReduceSum":
        return weighted_sum([take(values, source, positions, 1.0)], formula="sum(x)")
    return weighted_sum([take(values, source, positions, 1 / count)], formula="sum(x) / n", n=float(count))


def batch_norm(operation: Operation, index: Index, values: Values) -> Arithmetic | None:
    """BatchNormalization with its running statistics, folded into one weight and one bias for each channel.

    Ioffe and Szegedy, Batch Normalization (2015), algorithm 2.
    """
    source, *given = operation.inputs
    if any(values.is_computed(name) for name in given):
        return None
    gamma, beta, mean, variance = (float(values[name][index[1]]) for name in given)
    epsilon = float(operation.attributes.get("epsilon", 1e-5))
    weight = gamma / np.sqrt(variance + epsilon)
    details = {"gamma": gamma, "beta": beta, "mean": mean, "variance": variance, "epsilon": epsilon}
    terms = [element(values, source, index, float(weight))]
    formula = "gamma * (x - mean) / sqrt(variance + epsilon) + beta"
    return weighted_sum(terms, float(beta - mean * weight), formula=formula, **details)


def _product(values: Values, name: str, place: Index, weight: float, origin: Source) -> Arithmetic:
    terms: Terms = take(values, name, _alone(place), weight, weights_source=origin)
    return Arithmetic("product", (terms,), float(terms.values.sum()) * weight, formula="x * y")


def _alone(place: Index) -> tuple[tuple[int, ...], ...]:
    return tuple((one,) for one in place)
