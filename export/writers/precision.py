"""model.fp16.onnx and model.int8.onnx: smaller and, where the machine has the instructions, faster forms of model.onnx.

Both keep the interface: uint8 images in, probabilities and logits in float32 out. Normalisation and softmax are
computed in float32, where rounding would cost accuracy and nothing is gained.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from models.images.decode import Pixels

CALIBRATION_IMAGES = 512
_BATCH = 32
_SCOPES = "pkg.torch.onnx.name_scopes"
QUANTIZED = ("Conv", "Gemm", "MatMul", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Relu")


def write_fp16(source: Path, path: Path) -> None:
    """Writes `model.onnx` with weights and inner values in half precision."""
    model = onnx.load(source)
    kept = [node.name for node in model.graph.node if _normalises(node)]
    _unshare(model.graph, set(kept))
    half = convert_float_to_float16(
        model, keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, "Softmax"], node_block_list=kept
    )
    OnnxModel(half).topological_sort()  # the converter puts its casts at the end
    onnx.checker.check_model(half)
    path.write_bytes(half.SerializeToString())


def _unshare(graph: onnx.GraphProto, nodes: set[str]) -> None:
    """Gives nodes constants of their own: a mean that equals the deviation is one, which the converter casts twice."""
    constants, seen = {tensor.name: tensor for tensor in graph.initializer}, set[str]()
    for node in graph.node:
        for place, name in enumerate(node.input if node.name in nodes else ()):
            if name in constants and name in seen:
                own = graph.initializer.add()
                own.CopyFrom(constants[name])
                node.input[place] = own.name = f"{name}.of.{node.name}"
            seen.add(name)


def write_int8(source: Path, images: Pixels, path: Path) -> None:
    """Writes `model.onnx` quantised statically: QDQ format, int8 weights per channel, uint8 activations.

    Batch norms are folded first, or they would stay in float32 between quantised convolutions. The layer that gives the
    logits is left alone: in 256 steps, probabilities would be coarse. Ranges are the largest and smallest values seen,
    after Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference
    (2018), section 2.

    Args:
        source: `model.onnx`.
        images: uint8 (N, H, W, C) from the training split, which decide the ranges of inner values.
        path: where to.
    """
    properties = {prop.key: prop.value for prop in onnx.load(source).metadata_props}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _quiet():
        folded, quantised = Path(folder) / "folded.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
        quantize_static(
            str(folded),
            str(quantised),
            _Calibration(images),
            op_types_to_quantize=list(QUANTIZED),
            nodes_to_exclude=_makers_of_logits(folded),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        model = onnx.load(quantised)
    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, images: Pixels) -> None:
        self.batches: Iterator[Pixels] = iter(
            [np.ascontiguousarray(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
        )

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


def _makers_of_logits(path: Path) -> list[str]:
    return [node.name for node in onnx.load(path).graph.node if "logits" in node.output]


def _normalises(node: onnx.NodeProto) -> bool:
    return any(prop.key == _SCOPES and "'normalize'" in prop.value for prop in node.metadata_props)


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser warns that a model it has just prepared itself might not be."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
