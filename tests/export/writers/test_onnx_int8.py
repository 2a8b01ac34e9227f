"""int8 in ONNX: kept where it is accurate and faster, left out with the reason where not, and servable."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from export.artifact.manifest import ArtifactError, read_manifest
from export.engines.protocol import EngineError
from export.engines.selection import open_engine
from export.pipeline import export as pipeline
from export.pipeline.export import ExportData, export_checkpoint
from export.verify.limits import Limits
from export.verify.verification import verify_artifact
from export.writers.onnx_int8 import write_int8
from service.serving.version_catalog import VersionCatalog
from service.settings import read_settings
from tests.conftest import make_checkpoint
from tests.export.writers.reduced_onnx import (
    assert_described_without_paths,
    assert_kept_measured_and_run,
    export_reduced,
    int8_twice_as_fast,
    kernel_types,
)
from tests.in_process import client_for, digit, encoded


@pytest.fixture
def int8_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "measure_speed", int8_twice_as_fast)


def test_int8_is_kept_measured_and_run(reduced: Path, data: ExportData) -> None:
    assert_kept_measured_and_run(reduced, data, "int8")
    assert onnx.TensorProto.INT8 in kernel_types(reduced / "model.int8.onnx")
    assert_described_without_paths(reduced / "model.int8.onnx", str(reduced.parents[2]))


def test_verification_covers_every_precision(reduced: Path, data: ExportData) -> None:
    assert read_manifest(reduced).dropped == {}
    reports = verify_artifact(reduced, test=data.test).files
    assert [report.precision for report in reports if report.engine == "onnxruntime"] == ["fp32", "fp16", "int8"]


def test_int8_that_is_slower_here_is_left_out_with_the_reason(
    trained: Path, data: ExportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"model.onnx": {"1": 10.0, "32": 20.0}, "model.int8.onnx": {"1": 11.0, "32": 19.0}}
    # fp16 is for GPUs: slower on this processor is no reason
    for other in ("PyTorch", "model.fp16.onnx", "model.int8.onnx (openvino)"):
        rates[other] = {"1": 1.0, "32": 1.0}
    monkeypatch.setattr(pipeline, "measure_speed", lambda runs, images: rates)
    lines: list[str] = []
    path = export_reduced(trained, tmp_path, data, report=lines.append)
    manifest = read_manifest(path)
    reason = "no faster here: 19 images/s at batch 32, 20 in fp32"
    assert manifest.dropped == {"model.int8.onnx": reason}
    assert not (path / "model.int8.onnx").exists() and "model.fp16.onnx" in manifest.files
    assert f"model.int8.onnx: not kept: {reason}" in lines
    with pytest.raises(EngineError, match=f"export left it out: {reason}"):
        open_engine(path, manifest, precision="int8", device="cpu")


def test_int8_that_loses_accuracy_is_left_out_with_the_reason(
    trained: Path, data: ExportData, tmp_path: Path, int8_is_faster: None
) -> None:
    black = ExportData(data.test, np.zeros_like(data.calibration))  # ranges of nothing
    manifest = read_manifest(export_reduced(trained, tmp_path, black))
    assert "at most 0.2 points may be lost" in manifest.dropped["model.int8.onnx"]
    assert "of the test images instead of 9" in manifest.dropped["model.int8.onnx"]


def test_verification_catches_an_accuracy_that_does_not_hold(
    trained: Path, data: ExportData, tmp_path: Path, int8_is_faster: None
) -> None:
    black = ExportData(data.test, np.zeros_like(data.calibration))
    path = export_reduced(trained, tmp_path, black, limits=Limits(accuracy_loss=1.0))
    with pytest.raises(ArtifactError, match=r"model.int8.onnx: .*(golden image|of the test images instead of)"):
        verify_artifact(path, test=data.test)


def test_a_batch_norm_is_folded_before_it_is_quantised(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "run", model="resnet20", size=8, channels=3, count=9)
    path = export_checkpoint(checkpoint, out=tmp_path / "artifacts", formats=["onnx"])
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    write_int8(path / "model.onnx", images, tmp_path / "int8.onnx")
    operations = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    assert "BatchNormalization" not in operations
    assert operations.count("Conv") == 19
    assert {path.name for path in tmp_path.iterdir()} == {"run", "artifacts", "int8.onnx"}


def test_the_server_runs_the_file_of_the_precision_it_is_told(reduced: Path) -> None:
    image = encoded(digit(3))
    full = client_for(reduced).post("/v1/classify?top_k=1", content=image).json()["results"][0]["predictions"][0]
    client = client_for(reduced, precision="int8")
    quantised = client.post("/v1/classify?top_k=1", content=image).json()["results"][0]["predictions"][0]
    assert quantised["label"] == full["label"]
    assert abs(quantised["probability"] - full["probability"]) < 0.5
    noise = encoded(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8))  # of which nobody is sure
    maps = client.post("/v1/models/lenet/feature-maps?layers=conv1", content=noise).json()
    assert (maps["file"], maps["served"]["file"]) == ("model.onnx", "model.int8.onnx")
    assert 0 < maps["served"]["maximum_difference"] < 1


def test_a_precision_that_an_artifact_lacks_is_said_at_start(lenet_artifact: Path) -> None:
    catalog = VersionCatalog(read_settings(artifacts=lenet_artifact, precision="int8", device="cpu"))
    catalog.open()
    assert "has no model.int8.onnx for the engine onnxruntime" in str(catalog.not_ready)
