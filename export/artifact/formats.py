"""The graph files an artifact may hold, with the engine and the precision of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from export.artifact.manifest import (
    AOTI_FILE,
    FP16_FILE,
    INT8_FILE,
    ONNX_FILE,
    PT2_FILE,
    TORCHSCRIPT_BF16_FILE,
    TORCHSCRIPT_FILE,
    TORCHSCRIPT_FP16_FILE,
)
from models.errors import UserError

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PrecisionName = Literal["auto", "fp32", "fp16", "bf16", "int8"]  # the values of the server's setting
FORMATS = ("onnx", "torchscript", "pt2", "aoti")
DEFAULT_FORMATS = ("onnx", "torchscript")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")


EngineName = Literal["auto", "onnxruntime", "openvino", "torchscript"]  # values of the server's setting
FormatEngine = Literal["onnxruntime", "openvino", "torchscript", "pt2", "aoti"]


@dataclass(frozen=True)
class GraphFormat:
    """One kind of graph file, and how it runs.

    `format` is its name on the command line; a `bound` file runs only on the kind of machine that made it.
    """

    file: str
    format: str
    engine: FormatEngine
    precision: Precision
    bound: bool = False

    @property
    def engine_name(self) -> str:
        """`Engine.name` of the engine that runs it."""
        return f"{self.engine}-bf16" if (self.engine, self.precision) == ("openvino", "bf16") else self.engine

    @property
    def key(self) -> str:
        """The file's name, for a further way to run a file with the engine's after it."""
        return run_key(self.file, self.engine_name)


GRAPH_FORMATS = (
    GraphFormat(ONNX_FILE, "onnx", "onnxruntime", "fp32"),
    GraphFormat(FP16_FILE, "onnx", "onnxruntime", "fp16"),
    GraphFormat(INT8_FILE, "onnx", "onnxruntime", "int8"),
    GraphFormat(TORCHSCRIPT_FILE, "torchscript", "torchscript", "fp32"),
    GraphFormat(TORCHSCRIPT_FP16_FILE, "torchscript", "torchscript", "fp16"),
    GraphFormat(TORCHSCRIPT_BF16_FILE, "torchscript", "torchscript", "bf16"),
    GraphFormat(PT2_FILE, "pt2", "pt2", "fp32"),
    GraphFormat(AOTI_FILE, "aoti", "aoti", "fp32", bound=True),
)
# OpenVINO needs no files of its own.
OPENVINO_RUNS = (
    GraphFormat(ONNX_FILE, "onnx", "openvino", "fp32"),
    GraphFormat(ONNX_FILE, "onnx", "openvino", "bf16"),
    GraphFormat(INT8_FILE, "onnx", "openvino", "int8"),
)
RUNS = (*GRAPH_FORMATS, *OPENVINO_RUNS)


def run_key(file: str, engine_name: str) -> str:
    """`GraphFormat.key` of a file and the name of an engine: OpenVINO runs other engines' files."""
    return f"{file} ({engine_name})" if engine_name.startswith("openvino") else file


def formats_of(precision: Precision) -> tuple[str, ...]:
    """The formats that have a file of a precision, or one that runs in it."""
    return tuple(dict.fromkeys(form.format for form in RUNS if form.precision == precision))


def engines_of(precision: Precision) -> tuple[FormatEngine, ...]:
    """The engines that run a file of a precision."""
    return tuple(form.engine for form in RUNS if form.precision == precision)


def find_format(engine: FormatEngine, precision: Precision) -> GraphFormat | None:
    """The form that an engine runs in a precision, or None."""
    return next((form for form in RUNS if (form.engine, form.precision) == (engine, precision)), None)


def choose_formats(formats: Sequence[str], precisions: Sequence[str], *, has_data: bool) -> list[GraphFormat]:
    """The files to write, each after the files it is made from.

    Raises:
        ValueError: an unknown or inconsistent choice.
    """
    for kind, words, known in (("format", formats, FORMATS), ("precision", precisions, PRECISIONS)):
        if unknown := [word for word in words if word not in known]:
            raise UserError(f"no {kind} is called {unknown[0]!r}; known are {', '.join(known)}")
        if not words:
            raise UserError(f"no {kind} was given; known are {', '.join(known)}")
    if "fp32" not in precisions:
        raise UserError("fp32 cannot be left out: the other precisions are made of it and measured against it")
    reduced = [precision for precision in PRECISIONS if precision in precisions and precision != "fp32"]
    for precision in reduced:
        if not set(possible := formats_of(precision)).intersection(formats):
            raise UserError(f"there is no {precision} file in {', '.join(formats)}; add {' or '.join(possible)}")
    if reduced and not has_data:
        raise UserError(f"{reduced[0]} needs the data set: it is kept only if its accuracy holds")
    return [form for form in GRAPH_FORMATS if form.format in formats and form.precision in precisions]
