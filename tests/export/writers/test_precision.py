"""fp16 and int8: kept where they are as good as they must be, left out with the reason where not, and servable."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from export.artifact.golden import check_golden
from export.artifact.manifest import ArtifactError, read_manifest
from export.engines.onnxruntime import OnnxEngine
from export.engines.protocol import EngineError
from export.engines.selection import open_engine
from export.pipeline import export as pipeline
from export.pipeline.data import load_export_data
from export.pipeline.export import ExportData, export_checkpoint
from export.verify.check import Limits
from export.verify.reference import reference
from export.verify.verification import verify_artifact
from export.writers.onnx import write_onnx
from export.writers.onnx_fp16 import write_fp16
from export.writers.onnx_int8 import write_int8
from models.checkpoint.directory import load_checkpoint, read_config
from models.checkpoint.samples import load_samples
from models.graph.node_table import node_table
from service.serving.version_catalog import VersionCatalog
from service.settings import read_settings
from tests.conftest import make_checkpoint
from tests.in_process import client_for, digit, encoded
from training.run.plan import TrainingRequest
from training.run.train import train_checkpoint

ALL = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeNet that has learnt the digits: accuracies of random weights would say nothing."""
    return train_checkpoint(
        TrainingRequest("lenet", "digits", overrides={"epochs": 12}), out=tmp_path_factory.mktemp("runs") / "lenet"
    )


@pytest.fixture(scope="module")
def data(trained: Path) -> ExportData:
    return load_export_data("digits", read_config(trained))


def rates(runs: dict[str, Any], images: Any) -> dict[str, dict[str, float]]:
    """int8 twice as fast, as on a large network; on LeNet it is slower."""
    return {name: dict.fromkeys(("1", "32"), 2.0 if name == "model.int8.onnx" else 1.0) for name in runs}


@pytest.fixture
def int8_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "measure_speed", rates)


@pytest.fixture(scope="module")
def reduced(trained: Path, data: ExportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact with all three; only to be read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "measure_speed", rates)
        return export(trained, tmp_path_factory.mktemp("reduced"), data)


def export(trained: Path, out: Path, data: ExportData, **more: Any) -> Path:
    return export_checkpoint(trained, out=out, formats=["onnx"], precisions=ALL, data=data, **more)


def test_all_three_are_kept_measured_and_run(reduced: Path, data: ExportData) -> None:
    manifest = read_manifest(reduced)
    assert manifest.dropped == {}
    full = manifest.files["model.onnx"]
    assert full.accuracy is not None and full.accuracy > 0.95
    labels, images = np.asarray(data.test.labels), np.asarray(data.test.images)
    for precision, file in (("fp16", "model.fp16.onnx"), ("int8", "model.int8.onnx")):
        entry = manifest.files[file]
        assert entry.size_bytes < 0.6 * full.size_bytes
        assert entry.parity["limit"] is None and 0 < entry.parity["maximum_difference"] < 0.5
        engine = open_engine(reduced, manifest, precision=precision, device="cpu")  # type: ignore[arg-type]
        assert engine.file == file
        probabilities, logits = engine.run(images)
        assert probabilities.dtype == logits.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-3)
        assert (probabilities.argmax(1) == labels).mean() == pytest.approx(entry.accuracy)
        assert entry.accuracy is not None and full.accuracy - entry.accuracy <= 0.002
        check_golden(engine, reduced, manifest)
    reports = verify_artifact(reduced, test=data.test).files
    assert [report.precision for report in reports] == ["fp32", "fp16", "int8"]


def test_the_files_are_of_the_precision_they_are_named_after(reduced: Path) -> None:
    types = {
        file: {tensor.data_type for tensor in onnx.load(reduced / file).graph.initializer if len(tensor.dims) == 4}
        for file in ("model.onnx", "model.fp16.onnx", "model.int8.onnx")
    }
    kinds = onnx.TensorProto
    assert kinds.FLOAT16 in types["model.fp16.onnx"] and kinds.INT8 in types["model.int8.onnx"]
    for file in types:  # each says what it is, and nothing of this machine
        model = onnx.load(reduced / file)
        assert [prop.key for prop in model.metadata_props] == ["convscope"]
        assert str(reduced.parents[2]).encode() not in (reduced / file).read_bytes()
        assert [value.name for value in model.graph.output] == ["probabilities", "logits"]


def test_int8_that_is_slower_here_is_left_out_with_the_reason(
    trained: Path, data: ExportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"model.onnx": {"1": 10.0, "32": 20.0}, "model.int8.onnx": {"1": 11.0, "32": 19.0}}
    # fp16 is for GPUs: slower on this processor is no reason
    rates["PyTorch"] = rates["model.fp16.onnx"] = {"1": 1.0, "32": 1.0}
    monkeypatch.setattr(pipeline, "measure_speed", lambda runs, images: rates)
    lines: list[str] = []
    path = export(trained, tmp_path, data, report=lines.append)
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
    manifest = read_manifest(export(trained, tmp_path, black))
    assert "at most 0.2 points may be lost" in manifest.dropped["model.int8.onnx"]
    assert "of the test images instead of 9" in manifest.dropped["model.int8.onnx"]


def test_verification_catches_an_accuracy_that_does_not_hold(
    trained: Path, data: ExportData, tmp_path: Path, int8_is_faster: None
) -> None:
    black = ExportData(data.test, np.zeros_like(data.calibration))
    path = export(trained, tmp_path, black, limits=Limits(accuracy_loss=1.0))
    with pytest.raises(ArtifactError, match=r"model.int8.onnx: .*(golden image|of the test images are right)"):
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


def test_a_mean_that_equals_the_deviation_is_no_hindrance(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(make_checkpoint(tmp_path / "run", mean=(0.5,), std=(0.5,), count=9))
    write_onnx(checkpoint, node_table(checkpoint.network, checkpoint.config.input), tmp_path / "model.onnx")
    write_fp16(tmp_path / "model.onnx", tmp_path / "half.onnx")
    images = load_samples(tmp_path / "run/samples.npz").images
    wanted, _ = reference(checkpoint)(images)
    np.testing.assert_allclose(OnnxEngine(tmp_path / "half.onnx", device="cpu").run(images)[0], wanted, atol=0.01)
