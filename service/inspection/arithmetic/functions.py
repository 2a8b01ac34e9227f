"""Operators on single elements, and those that normalize over several: activations, softmax, layer norm."""

import math
from collections.abc import Callable

import numpy as np

from export.engines.onnx_graph import Operation
from service.inspection.arithmetic.terms import Arithmetic, Index, Numbers, Values, broadcast_index, element, take

Function = Callable[[float, dict[str, float]], float]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _gelu_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


# Operator: formula, function of x and its attributes, and the attributes with their defaults (ONNX operator reference).
FUNCTIONS: dict[str, tuple[str, Function, dict[str, float]]] = {
    "Relu": ("max(x, 0)", lambda x, a: max(x, 0.0), {}),
    "LeakyRelu": ("x if x > 0 else alpha * x", lambda x, a: x if x > 0 else a["alpha"] * x, {"alpha": 0.01}),
    "Elu": (
        "x if x > 0 else alpha * (exp(x) - 1)",
        lambda x, a: x if x > 0 else a["alpha"] * math.expm1(x),
        {"alpha": 1},
    ),
    "Celu": (
        "max(x, 0) + min(0, alpha * (exp(x / alpha) - 1))",
        lambda x, a: max(x, 0.0) + min(0.0, a["alpha"] * math.expm1(min(x, 0.0) / a["alpha"])),
        {"alpha": 1},
    ),
    "Selu": (
        "gamma * (x if x > 0 else alpha * (exp(x) - 1))",
        lambda x, a: a["gamma"] * (x if x > 0 else a["alpha"] * math.expm1(x)),
        {"alpha": 1.6732631921768188, "gamma": 1.0507010221481323},
    ),
    "ThresholdedRelu": ("x if x > alpha else 0", lambda x, a: x if x > a["alpha"] else 0.0, {"alpha": 1}),
    "Sigmoid": ("1 / (1 + exp(-x))", lambda x, a: _sigmoid(x), {}),
    "HardSigmoid": (
        "min(max(alpha * x + beta, 0), 1)",
        lambda x, a: min(max(a["alpha"] * x + a["beta"], 0.0), 1.0),
        {"alpha": 0.2, "beta": 0.5},
    ),
    "HardSwish": ("x * min(max(x / 6 + 1 / 2, 0), 1)", lambda x, a: x * min(max(x / 6 + 0.5, 0.0), 1.0), {}),
    "Swish": ("x / (1 + exp(-alpha * x))", lambda x, a: x * _sigmoid(a["alpha"] * x), {"alpha": 1}),
    "Mish": ("x * tanh(log(1 + exp(x)))", lambda x, a: x * math.tanh(_softplus(x)), {}),
    "Softplus": ("log(1 + exp(x))", lambda x, a: _softplus(x), {}),
    "Softsign": ("x / (1 + |x|)", lambda x, a: x / (1 + abs(x)), {}),
    "Tanh": ("tanh(x)", lambda x, a: math.tanh(x), {}),
    "Erf": ("erf(x)", lambda x, a: math.erf(x), {}),
    "Exp": ("exp(x)", lambda x, a: math.exp(x), {}),
    "Log": ("log(x)", lambda x, a: math.log(x), {}),
    "Sqrt": ("sqrt(x)", lambda x, a: math.sqrt(x), {}),
    "Reciprocal": ("1 / x", lambda x, a: 1 / x, {}),
    "Abs": ("|x|", lambda x, a: abs(x), {}),
    "Neg": ("-x", lambda x, a: -x, {}),
    "Floor": ("floor(x)", lambda x, a: float(math.floor(x)), {}),
    "Ceil": ("ceil(x)", lambda x, a: float(math.ceil(x)), {}),
    "Sign": ("sign(x)", lambda x, a: float(np.sign(x)), {}),
}


def function(operation: Operation, index: Index, values: Values) -> Arithmetic | None:
    """An activation, or another function of one element."""
    formula, apply, defaults = FUNCTIONS[operation.op]
    details = {name: float(operation.attributes.get(name, default)) for name, default in defaults.items()}
    return _applied(operation, index, values, formula, apply, details)


def gelu(operation: Operation, index: Index, values: Values) -> Arithmetic | None:
    """Gelu, exact or approximated with tanh. Hendrycks and Gimpel, Gaussian Error Linear Units (2016)."""
    if operation.attributes.get("approximate", b"none") == b"tanh":
        formula = "x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))"
        return _applied(operation, index, values, formula, lambda x, a: _gelu_tanh(x), {})
    formula = "x / 2 * (1 + erf(x / sqrt(2)))"
    return _applied(operation, index, values, formula, lambda x, a: 0.5 * x * (1 + math.erf(x / math.sqrt(2))), {})


def clip(operation: Operation, index: Index, values: Values) -> Arithmetic | None:
    """Clip, such as ReLU6; its limits are inputs since operator set 11, attributes before."""
    details = {}
    for place, name in ((1, "min"), (2, "max")):
        given = values.optional(operation, place)
        if given is not None:
            details[name] = float(given)
        elif name in operation.attributes:
            details[name] = float(operation.attributes[name])
    formula = "x"
    if "min" in details:
        formula = f"max({formula}, min)"
    if "max" in details:
        formula = f"min({formula}, max)"
    low, high = details.get("min", -math.inf), details.get("max", math.inf)
    return _applied(operation, index, values, formula, lambda x, a: min(max(x, low), high), details)


def prelu(operation: Operation, index: Index, values: Values) -> Arithmetic | None:
    """PRelu: a slope below 0 for each channel."""
    source, slope = operation.inputs
    if values.is_computed(slope):
        return None
    details = {"slope": float(values[slope][broadcast_index(index, values[slope].shape)])}
    term = element(values, source, index)
    x = float(term.values.sum())
    result = x if x > 0 else details["slope"] * x
    return Arithmetic("function", (term,), result, formula="x if x > 0 else slope * x", details=details)


def power(operation: Operation, index: Index, values: Values) -> Arithmetic | None:
    """Pow with a constant exponent."""
    exponent = operation.inputs[1]
    if values.is_computed(exponent):
        return None
    details = {"p": float(values[exponent][broadcast_index(index, values[exponent].shape)])}
    return _applied(operation, index, values, "x^p", lambda x, a: x ** a["p"], details)


def softmax(operation: Operation, index: Index, values: Values) -> Arithmetic | None:
    """Softmax and LogSoftmax over an axis; before operator set 13 over it and all that follow."""
    source = operation.inputs[0]
    shape = values[source].shape
    axis = operation.attributes.get("axis", -1 if operation.opset >= 13 else 1) % len(shape)
    over = {axis} if operation.opset >= 13 else set(range(axis, len(shape)))
    term = take(values, source, [range(size) if at in over else (index[at],) for at, size in enumerate(shape)])
    largest = float(term.values.max())
    exponentials = float(np.exp(term.values - largest).sum())
    x = float(values[source][index])
    details = {"x": x, "sum": exponentials * math.exp(min(largest, 700.0))}
    if operation.op == "LogSoftmax":
        return Arithmetic(
            "softmax", (term,), x - largest - math.log(exponentials), formula="x - log(sum(exp(x)))", details=details
        )
    return Arithmetic(
        "softmax", (term,), math.exp(x - largest) / exponentials, formula="exp(x) / sum(exp(x))", details=details
    )


def layer_norm(operation: Operation, index: Index, values: Values) -> Arithmetic | None:
    """LayerNormalization and InstanceNormalization. Ba, Kiros and Hinton, Layer Normalization (2016)."""
    source = operation.inputs[0]
    if any(values.is_computed(name) for name in operation.inputs[1:] if name):
        return None
    shape = values[source].shape
    if operation.op == "InstanceNormalization":
        over = set(range(2, len(shape)))
    else:
        over = set(range(operation.attributes.get("axis", -1) % len(shape), len(shape)))
    term = take(values, source, [range(size) if at in over else (index[at],) for at, size in enumerate(shape)])
    details = {
        "x": float(values[source][index]),
        "mean": float(term.values.mean()),
        "variance": float(term.values.var()),
        "epsilon": float(operation.attributes.get("epsilon", 1e-5)),
    }
    for place, name, default in ((1, "gamma", 1.0), (2, "beta", 0.0)):
        given = values.optional(operation, place)
        details[name] = default if given is None else float(_parameter(given, operation, index))
    scaled = (details["x"] - details["mean"]) / math.sqrt(details["variance"] + details["epsilon"])
    return Arithmetic(
        "normalization",
        (term,),
        details["gamma"] * scaled + details["beta"],
        formula="gamma * (x - mean) / sqrt(variance + epsilon) + beta",
        details=details,
    )


def _parameter(given: Numbers, operation: Operation, index: Index) -> float:
    if operation.op == "InstanceNormalization":
        return float(given[index[1]])
    return float(given[broadcast_index(index, given.shape)])


def _applied(
    operation: Operation, index: Index, values: Values, formula: str, apply: Function, details: dict[str, float]
) -> Arithmetic:
    term = element(values, operation.inputs[0], index)
    return Arithmetic("function", (term,), apply(float(term.values.sum()), details), formula=formula, details=details)
