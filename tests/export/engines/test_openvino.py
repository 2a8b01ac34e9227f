"""OpenVINO runs the exported ONNX files: in fp32 as ONNX Runtime does, below it only once accuracies were compared."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.artifact.manifest import read_manifest
from export.engines.openvino import runs_bf16
from export.engines.protocol import EngineError
from export.engines.selection import open_engine, runs_here
from export.pipeline import export as pipeline
from export.pipeline.export import ExportData, export_checkpoint
from export.verify.limits import Limits
from export.verify.verification import verify_artifact
from tests.conftest import Exported
from tests.in_process import client_for, digit, encoded

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install -e '.[openvino]'")

with_bf16 = pytest.mark.skipif(not runs_bf16(), reason="this processor has no instructions for bf16")
BF16 = "model.onnx (openvino-bf16)"


@pytest.fixture(scope="module")
def verified(trained: Path, data: ExportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("artifacts")
    return export_checkpoint(trained, out=out, precisions=["fp32", "bf16"], formats=["onnx"], data=data)


def test_fp32_gives_the_answers_of_onnx_runtime(lenet_artifact: Path) -> None:
    assert_as_onnx_runtime(lenet_artifact)


@pytest.mark.acceptance
def test_fp32_of_every_network_gives_the_answers_of_onnx_runtime(exported: Exported) -> None:
    assert_as_onnx_runtime(exported.artifact)


def assert_as_onnx_runtime(artifact: Path) -> None:
    manifest = read_manifest(artifact)
    images = np.random.default_rng(0).integers(0, 256, (9, *manifest.input.shape), np.uint8)
    one, other = (open_engine(artifact, manifest, engine=name, device="cpu") for name in ("openvino", "onnxruntime"))
    assert (one.name, one.file, one.device) == ("openvino", "model.onnx", "cpu")
    for count in (1, 9, 2):
        for found, wanted in zip(one.run(images[:count]), other.run(images[:count]), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * max(1, np.abs(wanted).max()))


def test_threads_share_an_engine(lenet_artifact: Path) -> None:
    manifest = read_manifest(lenet_artifact)
    engine = open_engine(lenet_artifact, manifest, engine="openvino", threads=1)
    batches = [np.full((1 + index % 5, *manifest.input.shape), index, np.uint8) for index in range(40)]
    alone = [engine.run(batch)[1] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda batch: engine.run(batch)[1], batches))
    for found, wanted in zip(together, alone, strict=True):
        np.testing.assert_array_equal(found, wanted)


@with_bf16
def test_bf16_is_verified_recorded_and_served(verified: Path, data: ExportData) -> None:
    manifest = read_manifest(verified)
    entry = manifest.runs[BF16]
    assert entry.accuracy is not None and entry.accuracy >= manifest.reference["accuracy"] - 0.002
    assert 0 < entry.parity["maximum_difference"] < 0.05 and entry.parity["limit"] is None and entry.images_per_s
    engine = open_engine(verified, manifest, engine="openvino", precision="bf16")
    assert engine.name == "openvino-bf16"
    full = open_engine(verified, manifest, engine="openvino")
    images = data.test.images[:8].numpy()
    assert 0 < np.abs(engine.run(images)[1] - full.run(images)[1]).max()  # it does round
    reports = {report.file: report for report in verify_artifact(verified, test=data.test).files}
    assert reports[BF16].precision == "bf16" and reports[BF16].engine == "openvino-bf16"
    client = client_for(verified, engine="openvino", precision="bf16")
    (model,) = client.get("/v1/models").json()["models"]
    assert (model["file"], model["engine"]) == ("model.onnx", "openvino-bf16")
    (answer,) = client.post("/v1/classify?top_k=1", content=encoded(digit(3))).json()["results"]
    assert answer["predictions"]


def test_bf16_that_was_not_compared_is_refused(lenet_artifact: Path) -> None:
    manifest = read_manifest(lenet_artifact)
    assert BF16 not in [form.key for form in runs_here(manifest)]
    with pytest.raises(EngineError, match=r"cannot run model.onnx \(openvino-bf16\): its accuracy was not compared"):
        open_engine(lenet_artifact, manifest, engine="openvino", precision="bf16")


@with_bf16
def test_bf16_that_loses_accuracy_is_refused_with_the_reason(
    trained: Path, data: ExportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worse(engine: Any, form: Any, *arguments: Any) -> Any:
        found = checked(engine, form, *arguments)
        if form.precision == "bf16":
            found.correct[:] = False
        return found

    checked = pipeline.check_graph
    monkeypatch.setattr(pipeline, "check_graph", worse)
    path = export_checkpoint(
        trained, out=tmp_path, precisions=["fp32", "bf16"], formats=["onnx"], data=data, limits=Limits()
    )
    manifest = read_manifest(path)
    assert BF16 not in manifest.runs and "points" in manifest.dropped[BF16]
    with pytest.raises(EngineError, match="export refused it: "):
        open_engine(path, manifest, engine="openvino", precision="bf16")


def test_without_the_package_it_says_how_to_install_it(
    lenet_artifact: Path, trained: Path, data: ExportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    manifest = read_manifest(lenet_artifact)
    assert not [form for form in runs_here(manifest) if form.engine == "openvino"]
    with pytest.raises(EngineError, match=r"openvino is not installed; pip install -e \"\.\[openvino\]\""):
        open_engine(lenet_artifact, manifest, engine="openvino")
    with pytest.raises(ValueError, match=r"there is no bf16 file in these formats, and .* the package openvino is not"):
        export_checkpoint(trained, out=tmp_path, precisions=["fp32", "bf16"], formats=["onnx"], data=data)


def test_a_gpu_is_not_for_openvino(lenet_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.engines.selection.cuda_unavailable_reason", lambda: None)
    with pytest.raises(EngineError, match="OpenVINO is used on the CPU only"):
        open_engine(lenet_artifact, read_manifest(lenet_artifact), engine="openvino", device="cuda")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    from export.engines.selection import open_file

    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(EngineError, match=f"OpenVINO cannot open {path}"):
        open_file("openvino", path)
