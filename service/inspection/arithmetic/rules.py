"""The table of operators whose arithmetic is known."""

import warnings
from collections.abc import Callable

from export.engines.onnx_graph import Operation
from service.inspection.arithmetic import functions, linear, windows
from service.inspection.arithmetic.movement import MOVING, SAME_PLACE, movement, same_place
from service.inspection.arithmetic.terms import Arithmetic, Index, Values

Rule = Callable[[Operation, Index, Values], Arithmetic | None]

RULES: dict[str, Rule] = {
    "Conv": windows.convolution,
    "MaxPool": windows.max_pool,
    "AveragePool": windows.average_pool,
    "Gemm": linear.gemm,
    "MatMul": linear.matrix_product,
    "BatchNormalization": linear.batch_norm,
    **dict.fromkeys(("Add", "Sub", "Sum", "Mean"), linear.addition),
    **dict.fromkeys(("Mul", "Div"), linear.multiplication),
    **dict.fromkeys(("Max", "Min"), linear.extreme),
    **dict.fromkeys(
        ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), linear.reduction
    ),
    **dict.fromkeys(functions.FUNCTIONS, functions.function),
    "Gelu": functions.gelu,
    "Clip": functions.clip,
    "PRelu": functions.prelu,
    "Pow": functions.power,
    **dict.fromkeys(("Softmax", "LogSoftmax"), functions.softmax),
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization"), functions.layer_norm),
    **dict.fromkeys(SAME_PLACE, same_place),
}


def explain(operation: Operation, output: str, index: Index, values: Values) -> Arithmetic:
    """The arithmetic of one element of an operator's output; of the kind `unknown` where there is no rule for it.

    Args:
        output: name of one of the operator's outputs.
        index: the element's position, the batch included.
        values: all inputs.
    """
    found = None
    if operation.proto.domain in ("", "ai.onnx") and operation.inputs:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # numpy's, of infinities that the network itself has
                if operation.op in MOVING:
                    found = movement(operation, operation.outputs.index(output), index, values)
                elif rule := RULES.get(operation.op):
                    found = rule(operation, index, values)
        except (ArithmeticError, ValueError):  # outside of a function's domain, or an unusual form of the operator
            found = None
    return found or Arithmetic("unknown", (), None)
