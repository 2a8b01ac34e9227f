"""Conversion of a network to ONNX by torch's exporter."""

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.onnx import OnnxExporterError, ONNXProgram

from models.errors import UserError, causes
from models.graph.example import blank_images
from models.graph.trace import Trace, trace

OPSET = 20  # the newest opset that torch's exporter writes without conversion; ONNX Runtime reads it from 1.17 on
_FREE_BATCH = ({0: torch.export.Dim("batch")},)
_OPERATOR = re.compile(r"target=torch\.ops\.\w+\.(\w+)")


def onnx_program(module: nn.Module, example: Tensor, traced: Trace, **names: list[str]) -> ONNXProgram:
    """Converts a module with a free batch.

    An operation that the exporter has no translation for, or one for other shapes only (as for attention without
    heads), is taken apart into simpler ones first.

    Args:
        module: maps a batch to tensors; made of `traced`.
        example: a batch of two or more images, as the exporter would treat a batch of one as a constant.
        traced: the network, for the lines in messages.
        names: `input_names` and `output_names` of the graph.

    Raises:
        ValueError: an operation has no form in ONNX; the message has its line.
    """
    with _quiet():
        try:
            return _convert(module, example, names)
        except OnnxExporterError as error:
            failure = error
        try:
            simpler = torch.export.export(module, (example,), dynamic_shapes=_FREE_BATCH).run_decompositions()
            return _convert(simpler, example, names)
        except Exception:  # torch.export raises many kinds of errors; the first failure tells more
            raise UserError(_explained(failure, traced)) from failure


def why_not_onnx(network: nn.Module, shape: Sequence[int]) -> str:
    """Tries the conversion: the reason why it fails, with the line, or an empty string.

    Args:
        network: on the CPU; it stays unchanged.
        shape: of one image, (channels, height, width).

    Raises:
        ValueError: the network cannot be traced.
    """
    traced = trace(network, shape)
    try:
        onnx_program(traced.module, blank_images(network, 2, shape), traced)
    except UserError as error:
        return str(error)
    return ""


def _convert(module: Any, example: Tensor, names: dict[str, list[str]]) -> ONNXProgram:
    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        external_data=False,
        verbose=False,
        opset_version=OPSET,
        dynamic_shapes=_FREE_BATCH,
        **names,  # type: ignore[arg-type]  # mypy tries every argument
    )
    if program is None:
        raise UserError("torch.onnx.export returned nothing")
    return program


def _explained(error: BaseException, traced: Trace) -> str:
    texts = [str(cause) for cause in causes(error)]
    operator = next((found[1] for text in texts if (found := _OPERATOR.search(text))), "")
    if not operator:
        return f"the network cannot be converted to ONNX: {(texts[-1] or type(error).__name__).splitlines()[0]}"
    lines = [line for node, line in traced.lines.items() if line and _same(operator, node.target)]
    return f"ONNX has no operation for {operator}{lines[0].quoted if lines else ''}"


def _same(operator: str, target: Any) -> bool:
    """True if a node of the traced network calls the operator, whose name may lack or have a prefix."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    name = name.rsplit(".", 1)[-1].strip("_")
    return bool(name) and (operator.endswith(name) or name.endswith(operator))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's warnings about its own internals; the result is checked instead."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
