"""ONNX files in fp16 and int8: how they are exported, and what holds for both."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from export.artifact.golden import check_golden
from export.artifact.manifest import read_manifest
from export.engines.selection import open_engine
from export.pipeline.export import ExportData, export_checkpoint


def int8_twice_as_fast(runs: dict[str, Any], images: Any) -> dict[str, dict[str, float]]:
    """In place of measured rates: as on a large network; on LeNet int8 is slower."""
    return {name: dict.fromkeys(("1", "32"), 2.0 if name == "model.int8.onnx" else 1.0) for name in runs}


def export_reduced(trained: Path, out: Path, data: ExportData, **more: Any) -> Path:
    """Exports fp32, fp16 and int8 to ONNX."""
    return export_checkpoint(trained, out=out, formats=["onnx"], precisions=["fp32", "fp16", "int8"], data=data, **more)


def assert_kept_measured_and_run(artifact: Path, data: ExportData, precision: Any) -> None:
    """Checks a reduced file's size, its figures in the manifest, its answers and its accuracy."""
    manifest, file = read_manifest(artifact), f"model.{precision}.onnx"
    full, entry = manifest.files["model.onnx"], manifest.files[file]
    assert full.accuracy is not None and full.accuracy > 0.95
    labels, images = np.asarray(data.test.labels), np.asarray(data.test.images)
    assert entry.size_bytes < 0.6 * full.size_bytes
    assert entry.parity["limit"] is None and 0 < entry.parity["maximum_difference"] < 0.5
    engine = open_engine(artifact, manifest, precision=precision, device="cpu")
    assert engine.file == file
    probabilities, logits = engine.run(images)
    assert probabilities.dtype == logits.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-3)
    assert (probabilities.argmax(1) == labels).mean() == pytest.approx(entry.accuracy)
    assert entry.accuracy is not None and full.accuracy - entry.accuracy <= 0.002
    check_golden(engine, artifact, manifest)


def kernel_types(path: Path) -> set[int]:
    """The data types of a file's four-dimensional weights."""
    return {tensor.data_type for tensor in onnx.load(path).graph.initializer if len(tensor.dims) == 4}


def assert_described_without_paths(path: Path, private: str) -> None:
    """Checks that a file has its own metadata and outputs, and nothing of the machine's `private` folder."""
    model = onnx.load(path)
    assert [prop.key for prop in model.metadata_props] == ["convscope"]
    assert private.encode() not in path.read_bytes()
    assert [value.name for value in model.graph.output] == ["probabilities", "logits"]
