"""Operators that move elements without changing them: which element of which input stands at a position now."""

from typing import Any

import numpy as np
import numpy.typing as npt

from export.engines.onnx_graph import Operation
from service.inspection.arithmetic.terms import Arithmetic, Index, Values, element, weighted_sum

MOVING = frozenset(
    {
        "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Pad", "Reshape", "Slice", "SpaceToDepth", "Split",
        "Squeeze", "Tile", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
SAME_PLACE = frozenset({"Cast", "CastLike", "Dropout", "Identity"})


def same_place(operation: Operation, index: Index, values: Values) -> Arithmetic | None:
    """Identity and its like; a cast may round."""
    return _copy(values, operation.inputs[0], index)


def movement(operation: Operation, output: int, index: Index, values: Values) -> Arithmetic | None:
    """Follows an element back by moving numbered elements as the operator does, with ONNX's own reference.

    What stands where after a Reshape, Slice, Gather or Concat is then known without rules for each.

    Args:
        output: which of the operator's outputs, of which Split has several.
    """
    from onnx.reference import ReferenceEvaluator

    parts = operation.inputs if operation.op == "Concat" else operation.inputs[:1]
    feeds: dict[str, npt.NDArray[Any]] = {name: values[name] for name in operation.inputs[len(parts) :] if name}
    starts, count = [], 0
    renamed = type(operation.proto)()
    renamed.CopyFrom(operation.proto)
    for place, name in enumerate(parts):  # the same value may be joined to itself
        size = values[name].size
        renamed.input[place] = f"{name}#{place}"
        feeds[renamed.input[place]] = np.arange(count, count + size).reshape(values[name].shape)
        starts.append(count)
        count += size
    fill = 0.0
    if operation.op == "Pad":
        given = values.optional(operation, 2)
        fill = 0.0 if given is None else float(given.reshape(-1)[0])
        if given is not None:
            feeds[operation.inputs[2]] = np.array(-1)
        elif operation.attributes.get("mode", b"constant") == b"constant":
            if len(renamed.input) < 2:
                return None  # operator sets before 11 have the padding in attributes
            renamed.input[:] = [*renamed.input[:2], "fill", *renamed.input[3:]]
            feeds["fill"] = np.array(-1)
    moved: Any = ReferenceEvaluator(renamed).run(None, feeds)
    found = int(moved[output][index])
    if found < 0:
        return weighted_sum((), fill, formula="padding")
    part = max(place for place, start in enumerate(starts) if start <= found)
    name = parts[part]
    back = tuple(int(one) for one in np.unravel_index(found - starts[part], values[name].shape))
    if not values.is_computed(name):
        return weighted_sum((), float(values[name][back]), formula="constant")
    return _copy(values, name, back)


def _copy(values: Values, name: str, index: Index) -> Arithmetic:
    term = element(values, name, index, 1.0)
    return Arithmetic("copy", (term,), float(term.values.sum()), formula="x")
