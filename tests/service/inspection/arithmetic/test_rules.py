"""The arithmetic of each ONNX operator, compared with ONNX Runtime's result for the same graph."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from export.engines.onnx_graph import OnnxGraph
from service.inspection.arithmetic.rules import explain
from service.inspection.arithmetic.terms import Arithmetic, Values, total

RNG = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


X4, X2, X3 = numbers(1, 6, 9, 8), numbers(1, 12), numbers(1, 5, 12)
OTHER4 = numbers(1, 6, 9, 8)
POSITIVE = np.abs(X4) + 0.1
HALF, TWO = np.float32(0.5), np.float32(2)
INTS = np.int64


def ints(*values: int) -> np.ndarray:
    return np.array(values, INTS)


# (operator, values that depend on the image, constants or None for an input left out, attributes, operator set)
CASES: list[tuple[str, list[np.ndarray], list[np.ndarray | None], dict[str, Any], int]] = [
    ("Conv", [X4], [numbers(4, 6, 3, 3), numbers(4)], {}, 20),
    ("Conv", [X4], [numbers(4, 6, 3, 3)], {"pads": [1, 1, 1, 1]}, 20),
    ("Conv", [X4], [numbers(4, 6, 3, 2)], {"pads": [0, 1, 2, 0], "strides": [2, 1]}, 20),
    ("Conv", [X4], [numbers(4, 6, 3, 3)], {"pads": [2, 2, 2, 2], "dilations": [2, 3], "strides": [1, 2]}, 20),
    ("Conv", [X4], [numbers(4, 3, 3, 3), numbers(4)], {"group": 2, "pads": [1, 0, 1, 0]}, 20),
    ("Conv", [X4], [numbers(12, 1, 5, 5)], {"group": 6, "pads": [2, 2, 2, 2]}, 20),
    ("Conv", [X4], [numbers(4, 6, 3, 4)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, 20),
    ("Conv", [X4], [numbers(4, 6, 3, 4)], {"auto_pad": "SAME_LOWER", "strides": [2, 3]}, 20),
    ("Conv", [X4], [numbers(4, 6, 3, 4)], {"auto_pad": "VALID"}, 20),
    ("Conv", [X3], [numbers(4, 5, 3)], {"pads": [1, 1]}, 20),
    ("MaxPool", [X4], [], {"kernel_shape": [3, 2], "strides": [2, 2]}, 20),
    ("MaxPool", [X4 - 9], [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, 20),
    ("MaxPool", [X4], [], {"kernel_shape": [2, 2], "strides": [2, 3], "ceil_mode": 1}, 20),
    ("MaxPool", [X4], [], {"kernel_shape": [2, 2], "dilations": [3, 2]}, 20),
    ("AveragePool", [X4], [], {"kernel_shape": [3, 2], "strides": [2, 2]}, 20),
    ("AveragePool", [X4], [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, 20),
    ("AveragePool", [X4], [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, 20),
    ("AveragePool", [X4], [], {"kernel_shape": [2, 2], "strides": [2, 3], "ceil_mode": 1}, 20),
    (
        "AveragePool",
        [X4],
        [],
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1, "count_include_pad": 1},
        20,
    ),
    ("AveragePool", [X4], [], {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]}, 20),
    ("GlobalAveragePool", [X4], [], {}, 20),
    ("GlobalMaxPool", [X4], [], {}, 20),
    ("Gemm", [X2], [numbers(12, 5), numbers(5)], {}, 20),
    ("Gemm", [X2], [numbers(5, 12), numbers(1, 5)], {"transB": 1, "alpha": 0.5, "beta": 2.0}, 20),
    ("Gemm", [X2], [numbers(5, 12)], {"transB": 1}, 20),
    ("Gemm", [np.ascontiguousarray(X2.T)], [numbers(12, 5), np.float32(3)], {"transA": 1}, 20),
    ("MatMul", [X3], [numbers(12, 5)], {}, 20),
    ("MatMul", [X3], [numbers(2, 12, 5)], {}, 20),
    ("MatMul", [X3, numbers(1, 12, 3)], [], {}, 20),
    ("BatchNormalization", [X4], [numbers(6), numbers(6), numbers(6), np.abs(numbers(6))], {"epsilon": 1e-3}, 20),
    ("LayerNormalization", [X3], [numbers(12), numbers(12)], {"epsilon": 1e-6}, 20),
    ("LayerNormalization", [X3], [numbers(5, 12)], {"axis": 1}, 20),
    ("InstanceNormalization", [X4], [numbers(6), numbers(6)], {}, 20),
    ("Add", [X4, OTHER4], [], {}, 20),
    ("Add", [X4], [numbers(6, 1, 1)], {}, 20),
    ("Add", [X4, numbers(1, 6, 1, 1)], [], {}, 20),
    ("Sub", [X4, OTHER4], [], {}, 20),
    ("Sub", [X4], [HALF], {}, 20),
    ("Sum", [X4, OTHER4, X4], [], {}, 20),
    ("Mean", [X4, OTHER4], [], {}, 20),
    ("Mul", [X4, numbers(1, 6, 1, 1)], [], {}, 20),
    ("Mul", [X4, X4], [], {}, 20),
    ("Mul", [X4], [numbers(6, 1, 1)], {}, 20),
    ("Div", [X4], [TWO], {}, 20),
    ("Div", [X4, POSITIVE], [], {}, 20),
    ("Max", [X4, OTHER4], [], {}, 20),
    ("Min", [X4, OTHER4], [], {}, 20),
    ("ReduceMean", [X4], [ints(2, 3)], {}, 20),
    ("ReduceMean", [X4], [ints(-1)], {"keepdims": 0}, 20),
    ("ReduceMean", [X4], [], {"axes": [2, 3], "keepdims": 0}, 13),
    ("ReduceSum", [X4], [ints(1)], {"keepdims": 0}, 20),
    ("ReduceMax", [X4], [ints(2, 3)], {}, 20),
    ("ReduceMin", [X4], [ints(1)], {}, 20),
    *((op, [X4], [], {}, 20) for op in ("Relu", "LeakyRelu", "Elu", "Celu", "Selu", "ThresholdedRelu", "Sigmoid")),
    *((op, [X4], [], {}, 20) for op in ("HardSigmoid", "HardSwish", "Mish", "Softplus", "Softsign", "Tanh", "Erf")),
    *((op, [X4], [], {}, 20) for op in ("Exp", "Abs", "Neg", "Floor", "Ceil", "Sign", "Gelu")),
    *((op, [POSITIVE], [], {}, 20) for op in ("Log", "Sqrt", "Reciprocal")),
    ("LeakyRelu", [X4], [], {"alpha": 0.3}, 20),
    ("HardSigmoid", [X4], [], {"alpha": 1 / 6, "beta": 0.5}, 20),
    ("Gelu", [X4], [], {"approximate": "tanh"}, 20),
    ("Clip", [X4], [np.float32(0), HALF], {}, 20),
    ("Clip", [X4], [None, HALF], {}, 20),
    ("Clip", [X4], [], {"min": 0.0, "max": 0.5}, 6),
    ("PRelu", [X4], [numbers(6, 1, 1)], {}, 20),
    ("Pow", [POSITIVE], [TWO], {}, 20),
    ("Softmax", [X3], [], {}, 20),
    ("Softmax", [X4], [], {"axis": 1}, 20),
    ("Softmax", [X3], [], {}, 11),
    ("LogSoftmax", [X3], [], {"axis": 1}, 20),
    ("Identity", [X4], [], {}, 20),
    ("Dropout", [X4], [], {}, 20),
    ("Reshape", [X4], [ints(1, -1, 8)], {}, 20),
    ("Flatten", [X4], [], {}, 20),
    ("Transpose", [X4], [], {"perm": [0, 2, 3, 1]}, 20),
    ("Squeeze", [numbers(1, 6, 1, 1)], [ints(2, 3)], {}, 20),
    ("Unsqueeze", [X2], [ints(2)], {}, 20),
    ("Expand", [numbers(1, 6, 1, 1)], [ints(1, 6, 3, 2)], {}, 20),
    ("Slice", [X4], [ints(1, 7), ints(9, -99), ints(2, 3), ints(2, -1)], {}, 20),
    ("Concat", [X4, OTHER4], [], {"axis": 1}, 20),
    ("Concat", [X4, X4], [], {"axis": 2}, 20),
    ("Concat", [X4], [numbers(1, 2, 9, 8)], {"axis": 1}, 20),
    ("Gather", [X4], [ints(3, 0)], {"axis": 1}, 20),
    ("Pad", [X4], [ints(0, 0, 1, 2, 0, 0, 0, 1)], {}, 20),
    ("Pad", [X4], [ints(0, 0, 1, 2, 0, 0, 0, 1), np.float32(3)], {}, 20),
    ("Pad", [X4], [ints(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "reflect"}, 20),
    ("Split", [X4], [], {"axis": 1, "num_outputs": 2}, 20),
    ("Tile", [X4], [ints(1, 1, 2, 1)], {}, 20),
    ("DepthToSpace", [numbers(1, 8, 3, 3)], [], {"blocksize": 2}, 20),
    ("SpaceToDepth", [numbers(1, 2, 4, 4)], [], {"blocksize": 2}, 20),
]


def graph_of(
    op: str, computed: list[np.ndarray], constants: list[np.ndarray | None], attributes: dict[str, Any], opset: int
) -> tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A model of one operator whose inputs `x0`, `x1` depend on the image; its feeds and its constants."""
    feeds = {f"x{place}": value for place, value in enumerate(computed)}
    given = {f"c{place}": value for place, value in enumerate(constants) if value is not None}
    names = [*feeds, *("" if value is None else f"c{place}" for place, value in enumerate(constants))]
    node = helper.make_node(op, names, ["y", "z"] if op == "Split" else ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, value.shape) for name, value in feeds.items()],
        [helper.make_empty_tensor_value_info(name) for name in node.output],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in given.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return model, feeds, {name: np.asarray(value) for name, value in given.items()}


def explained(case: tuple[Any, ...]) -> tuple[np.ndarray, list[tuple[tuple[int, ...], Arithmetic]]]:
    """The operator's last output by ONNX Runtime, and the arithmetic of elements of it, corners among them."""
    model, feeds, constants = graph_of(*case)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result = session.run(None, feeds)[-1]
    operation = OnnxGraph(model, ()).operations[0]
    values = Values(feeds, constants)
    corners = [(0,) * result.ndim, tuple(size - 1 for size in result.shape)]
    places = corners + [tuple(int(RNG.integers(size)) for size in result.shape) for _ in range(40)]
    return result, [(place, explain(operation, operation.outputs[-1], place, values)) for place in places]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[3]} {len(case[1])}+{len(case[2])} {case[4]}")
def test_the_arithmetic_gives_what_onnx_runtime_gives(case):
    result, found = explained(case)
    scale = float(np.abs(result).max())
    for place, arithmetic in found:
        assert arithmetic.value == pytest.approx(float(result[place]), abs=2e-6 * max(scale, 1)), place


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[3]} {len(case[1])}+{len(case[2])} {case[4]}")
def test_values_are_those_at_the_positions_that_are_named(case):
    _, feeds, _ = graph_of(*case)
    for _, arithmetic in explained(case)[1]:
        for terms in arithmetic.terms:
            for at in np.ndindex(terms.values.shape):
                place = tuple(axis[one] for axis, one in zip(terms.source.axes, at, strict=True))
                array = feeds[terms.source.value]
                inside = all(0 <= one < size for one, size in zip(place, array.shape, strict=True))
                assert terms.values[at] == (array[place] if inside else 0)
                assert (terms.padding is not None and bool(terms.padding[at])) is not inside
            if terms.weights_source is not None:
                positions = np.ix_(*terms.weights_source.axes)
                weights = feeds[terms.weights_source.value][positions]
                np.testing.assert_array_equal(np.sort(weights, axis=None), np.sort(terms.weights, axis=None))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[3]} {len(case[1])}+{len(case[2])} {case[4]}")
def test_products_and_bias_add_up_where_the_arithmetic_is_a_sum(case):
    for _, arithmetic in explained(case)[1]:
        if arithmetic.kind in ("weighted_sum", "product", "maximum", "minimum", "copy"):
            assert total(arithmetic.terms, arithmetic.bias) == pytest.approx(arithmetic.value, abs=1e-12)
        else:
            assert all(terms.weights is None for terms in arithmetic.terms)


def test_a_maximum_has_one_weight_and_padding_never_wins():
    _, found = explained(("MaxPool", [X4 - 9], [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, 20))
    for _, arithmetic in found:
        (terms,) = arithmetic.terms
        assert terms.weights.sum() == 1
        assert arithmetic.value < -4


@pytest.mark.parametrize(
    "case",
    [
        ("Einsum", [X3, X3], [], {"equation": "bij,bkj->bik"}, 20),
        ("Conv", [X4, numbers(4, 6, 3, 3)], [], {}, 20),  # weights that depend on the image
        ("CumSum", [X2], [ints(1)], {}, 20),
        ("Log", [-POSITIVE], [], {}, 20),  # outside of its domain
    ],
    ids=lambda case: case[0],
)
def test_what_is_not_known_is_said_to_be_unknown(case):
    for _, arithmetic in explained(case)[1]:
        assert (arithmetic.kind, arithmetic.value, arithmetic.terms) == ("unknown", None, ())
