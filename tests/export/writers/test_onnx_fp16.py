"""fp16 in ONNX: as accurate as fp32 at half the size."""

from pathlib import Path

import numpy as np
import onnx

from export.engines.onnxruntime import OnnxEngine
from export.pipeline.export import ExportData
from export.verify.reference import reference
from export.writers.onnx import write_onnx
from export.writers.onnx_fp16 import write_fp16
from models.checkpoint.directory import load_checkpoint
from models.checkpoint.samples import load_samples
from models.graph.node_table import node_table
from tests.conftest import make_checkpoint
from tests.export.writers.reduced_onnx import (
    assert_described_without_paths,
    assert_kept_measured_and_run,
    kernel_types,
)


def test_fp16_is_kept_measured_and_run(reduced: Path, data: ExportData) -> None:
    assert_kept_measured_and_run(reduced, data, "fp16")
    assert onnx.TensorProto.FLOAT16 in kernel_types(reduced / "model.fp16.onnx")
    assert_described_without_paths(reduced / "model.fp16.onnx", str(reduced.parents[2]))


def test_a_mean_that_equals_the_deviation_is_no_hindrance(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(make_checkpoint(tmp_path / "run", mean=(0.5,), std=(0.5,), count=9))
    write_onnx(checkpoint, node_table(checkpoint.network, checkpoint.config.input), tmp_path / "model.onnx")
    write_fp16(tmp_path / "model.onnx", tmp_path / "half.onnx")
    images = load_samples(tmp_path / "run/samples.npz").images
    wanted, _ = reference(checkpoint)(images)
    np.testing.assert_allclose(OnnxEngine(tmp_path / "half.onnx", device="cpu").run(images)[0], wanted, atol=0.01)
