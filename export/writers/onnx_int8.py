"""model.int8.onnx: model.onnx statically quantised, with activation ranges calibrated on training images.

The interface is unchanged: uint8 images in, float32 probabilities and logits out.
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

from models.images.decode import Pixels

CALIBRATION_IMAGES = 512
_BATCH = 32
QUANTIZED = ("Conv", "Gemm", "MatMul", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Relu")


def write_int8(source: Path, images: Pixels, path: Path) -> None:
    """Writes `model.onnx` statically quantised: QDQ format, int8 weights per channel, uint8 activations.

    Batch norms are folded first, as they would otherwise stay in float32 between quantised convolutions. The layer that
    computes the logits is not quantised: with 256 steps, probabilities would be coarse. Ranges are the minimum and
    maximum observed values, after Jacob et al., Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference (2018), section 2.

    Args:
        source: `model.onnx`.
        images: uint8 (N, H, W, C) from the training split, which determine the activation ranges.
        path: the file to write.
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the quantiser's warning that the model may not be prepared, which it has just done itself."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
