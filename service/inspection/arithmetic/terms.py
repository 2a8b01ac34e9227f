"""Terms: the numbers that one unit is computed from, with their weights and where they come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from export.engines.onnx_graph import Operation

Index = tuple[int, ...]  # a position in a value, the batch included
Axes = tuple[tuple[int, ...], ...]  # positions along each axis of a value, the batch included
Numbers = npt.NDArray[np.float64]
Kind = Literal[
    "weighted_sum", "product", "maximum", "minimum", "function", "normalization", "softmax", "copy", "unknown"
]


@dataclass(frozen=True)
class Source:
    """Elements of one value: those at every combination of the positions along its axes.

    Attributes:
        value: its name in the ONNX file.
        axes: for each axis, positions; those outside of the value are padding.
    """

    value: str
    axes: Axes


@dataclass(frozen=True)
class Terms:
    """Elements of one value that take part in a unit's arithmetic. All arrays have one axis for each of the source.

    Attributes:
        source: where they come from.
        values: the elements; 0 where they are padding.
        weights: what each is multiplied by; None if the arithmetic is no weighted sum.
        padding: true where a position is outside of the source; None if none is.
        weights_source: where the weights come from if they depend on the image as well, and which of them.
    """

    source: Source
    values: Numbers
    weights: Numbers | None = None
    padding: npt.NDArray[np.bool_] | None = None
    weights_source: Source | None = None

    @property
    def products(self) -> Numbers | None:
        """Values times weights."""
        return None if self.weights is None else self.values * self.weights


@dataclass(frozen=True)
class Arithmetic:
    """How one unit is computed.

    A weighted sum, a copy and a maximum are the sum of all products, plus the bias: the weights of a copy are 1, those
    of a maximum are 1 for the largest value and 0 for the others. A product has one term whose weight is the other
    factor.

    Attributes:
        kind: of the arithmetic.
        terms: one for each value that takes part.
        value: the result, in double precision; None if the operator is unknown.
        bias: what is added.
        formula: in the terms' values, such as `max(x, 0)`.
        details: further numbers of the formula, by name.
    """

    kind: Kind
    terms: tuple[Terms, ...]
    value: float | None
    bias: float = 0.0
    formula: str = ""
    details: Mapping[str, float] = field(default_factory=dict)

    def shifted(self, bias: float) -> "Arithmetic":
        """The same with something added to it, so a copy becomes a sum."""
        assert self.value is not None
        formula = self.formula if self.formula.endswith(" + b") else f"{self.formula} + b"
        return replace(self, kind="weighted_sum", value=self.value + bias, bias=self.bias + bias, formula=formula)


class Values:
    """The numbers that an operation reads.

    Args:
        computed: values that depend on the image, by their names in the file.
        constants: weights and settings likewise.
    """

    def __init__(self, computed: Mapping[str, npt.NDArray[Any]], constants: Mapping[str, npt.NDArray[Any]]) -> None:
        self._computed, self._constants = computed, constants

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._computed[name] if name in self._computed else self._constants[name]

    def is_computed(self, name: str) -> bool:
        """True if a value depends on the image."""
        return name in self._computed

    def optional(self, operation: Operation, place: int) -> npt.NDArray[Any] | None:
        """An input that may be left out."""
        name = operation.inputs[place] if place < len(operation.inputs) else ""
        return self[name] if name else None

    def computed_inputs(self, operation: Operation) -> list[str]:
        """Inputs that depend on the image, each as often as it is used."""
        return [name for name in operation.inputs if name and self.is_computed(name)]


def take(
    values: Values,
    name: str,
    axes: Sequence[Sequence[int]],
    weights: npt.NDArray[Any] | float | None = None,
    *,
    weights_source: Source | None = None,
) -> Terms:
    """The elements of a value at every combination of positions; 0 at those outside of it."""
    array = values[name]
    positions = [np.asarray(axis, np.int64) for axis in axes]
    inside = [(axis >= 0) & (axis < size) for axis, size in zip(positions, array.shape, strict=True)]
    mask = np.ones([len(axis) for axis in positions], bool)
    for place, one in enumerate(inside):
        mask &= one.reshape([-1 if place == other else 1 for other in range(len(positions))])
    clipped = [axis.clip(0, max(size - 1, 0)) for axis, size in zip(positions, array.shape, strict=True)]
    found = np.where(mask, array[np.ix_(*clipped)], 0).astype(np.float64)
    return Terms(
        Source(name, tuple(tuple(axis.tolist()) for axis in positions)),
        found,
        None if weights is None else np.broadcast_to(np.asarray(weights, np.float64), found.shape),
        None if mask.all() else ~mask,
        weights_source,
    )


def element(values: Values, name: str, index: Index, weight: float | None = None) -> Terms:
    """One element of a value."""
    return take(values, name, [(place,) for place in index], weight)


def broadcast_index(index: Index, shape: Sequence[int]) -> Index:
    """The position in a value of `shape` that broadcasting takes to `index` (numpy's rules)."""
    tail = index[len(index) - len(shape) :]
    return tuple(0 if size == 1 else place for place, size in zip(tail, shape, strict=True))


def total(terms: Sequence[Terms], bias: float = 0.0) -> float:
    """The sum of all products and the bias."""
    return float(sum(float(one.products.sum()) for one in terms if one.products is not None) + bias)


def weighted_sum(terms: Sequence[Terms], bias: float = 0.0, *, formula: str = "", **details: float) -> Arithmetic:
    """The arithmetic whose value is the sum of its products and a bias."""
    return Arithmetic("weighted_sum", tuple(terms), total(terms, bias), bias, formula, details)
