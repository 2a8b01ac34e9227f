"""A unit's arithmetic as text, for the command line and notebooks."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from service.inspection.arithmetic.terms import Numbers, Terms
from service.inspection.units import Unit

_TABLES, _TABLE_SIDE = 3, 7  # windows that are shown whole: so many channels of at most so many rows and columns
_LINES = 8  # of everything else, the largest


def unit_text(unit: Unit) -> str:
    """The arithmetic of a unit, line by line: terms, bias, the result beside the served value, what follows."""
    arithmetic = unit.arithmetic
    if arithmetic.formula == "pixel":
        return f"{unit.layer} [{_numbers(unit.index)}]  pixel, as the network takes it\nvalue {unit.served:.6g}"
    lines = [f"{unit.layer} [{_numbers(unit.index)}]  {_operators(unit)}", f"= {arithmetic.formula or 'unknown'}"]
    lines += [f"  {name} = {number:.6g}" for name, number in arithmetic.details.items()]
    for terms in arithmetic.terms:
        lines += _terms(terms)
    if arithmetic.kind == "unknown":
        lines += [f"  reads {source} {'x'.join(map(str, shape))}" for source, shape in unit.inputs]
        lines.append(f"served {unit.served:.6g}; the arithmetic of this operator is not known")
    else:
        if arithmetic.bias:
            lines.append(f"  bias {arithmetic.bias:+.6g}")
        lines.append(f"result {arithmetic.value:.6g}, served {unit.served:.6g}, difference {unit.difference:.1e}")
    lines += [f"then {one.layer} ({one.op}): {one.value:.6g}" for one in unit.following]
    if unit.receptive_field and unit.clipped:
        box = unit.clipped
        padded = " and padding" if box != unit.receptive_field else ""
        lines.append(f"sees rows {box.top} to {box.bottom - 1}, columns {box.left} to {box.right - 1}{padded}")
    return "\n".join(lines)


def _terms(terms: Terms) -> Iterator[str]:
    axes = terms.source.axes
    if len(axes) == 3 and len(axes[0]) <= _TABLES and max(len(axes[1]), len(axes[2])) <= _TABLE_SIDE:
        for place, channel in enumerate(axes[0]):
            yield f"  {terms.source.value} channel {channel}, rows {_span(axes[1])}, columns {_span(axes[2])}"
            tables = [terms.values[place]]
            if terms.weights is not None and terms.products is not None:
                tables += [terms.weights[place], terms.products[place]]
            yield from _tables(tables, None if terms.padding is None else terms.padding[place])
        return
    yield f"  {terms.source.value}: {terms.values.size} values"
    if (products := terms.products) is None:
        return
    if len(axes) == 3:
        sums, names = products.sum(axis=(1, 2)), [f"channel {channel}" for channel in axes[0]]
    else:
        sums, names = products.ravel(), [_numbers(place) for place in itertools.product(*axes)]
    order = np.argsort(-np.abs(sums), kind="stable")
    yield from (f"    {names[one]}: {sums[one]:+.6g}" for one in order[:_LINES])
    if len(order) > _LINES:
        yield f"    {len(order) - _LINES} others: {sums[order[_LINES:]].sum():+.6g}"


def _tables(tables: Sequence[Numbers], padding: npt.NDArray[np.bool_] | None) -> Iterator[str]:
    """Values, weights and products side by side, a row of the window a line; padding is a dot."""
    texts = [np.char.mod("%8.3f", table) for table in tables]
    if padding is not None:
        texts[0] = np.where(padding, "       .", texts[0])
    for row in range(len(texts[0])):
        yield "    " + "   |".join(" ".join(text[row]) for text in texts)


def _operators(unit: Unit) -> str:
    onnx = " of ".join(unit.operators)
    return f"{unit.op} ({onnx})" if unit.op and unit.op != onnx else onnx


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _span(axis: Sequence[int]) -> str:
    return f"{axis[0]} to {axis[-1]}" if len(axis) > 1 else str(axis[0])
