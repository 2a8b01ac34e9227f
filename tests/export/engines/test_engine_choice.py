"""`auto` beside a GPU that one of the two libraries cannot use, with stand-ins for what each finds."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from export.artifact.manifest import Manifest, read_manifest
from export.engines.onnxruntime import OnnxFeatureExtractor, open_session
from export.engines.protocol import EngineError
from export.engines.selection import open_engine


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A GPU, ONNX Runtime's package without CUDA, and torch that can use it."""
    for module in ("export.engines.onnxruntime", "export.engines.selection"):
        monkeypatch.setattr(f"{module}.cuda_unavailable_reason", lambda: None)
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["AzureExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return monkeypatch


def chosen(artifact: Path, manifest: Manifest, **wanted: str) -> str:
    """The file that `open_engine` opens, which is not opened."""
    given = {"engine": "auto", "precision": "auto", "device": "auto", **wanted}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.engines.selection.open_file", lambda engine, path, content, **settings: path.name)
        return open_engine(artifact, manifest, **given)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_torchscript_on_the_gpu_is_taken_before_onnx_runtime_on_the_cpu(
    lenet_artifact: Path, machine: pytest.MonkeyPatch, device: str, precision: str
) -> None:
    assert chosen(lenet_artifact, read_manifest(lenet_artifact), device=device, precision=precision) == "model.ts"


@pytest.mark.parametrize("wanted", [{"engine": "onnxruntime"}, {"device": "cpu"}])
def test_what_is_asked_for_is_taken_all_the_same(
    lenet_artifact: Path, machine: pytest.MonkeyPatch, wanted: dict[str, str]
) -> None:
    assert chosen(lenet_artifact, read_manifest(lenet_artifact), **wanted) == "model.onnx"


@pytest.mark.parametrize("missing", ["GPU", "CPU-only package", "torch's GPU", "torch", "model.ts"])
def test_onnx_runtime_is_taken_where_one_of_these_is_missing(
    lenet_artifact: Path, machine: pytest.MonkeyPatch, missing: str
) -> None:
    manifest = read_manifest(lenet_artifact)
    if missing == "GPU":
        machine.setattr("export.engines.selection.cuda_unavailable_reason", lambda: "there is no NVIDIA driver")
    if missing == "CPU-only package":
        machine.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    if missing == "torch's GPU":
        machine.setattr(torch.cuda, "is_available", lambda: False)
    if missing == "torch":
        machine.setitem(sys.modules, "torch", None)
    if missing == "model.ts":
        manifest = replace(manifest, files={name: e for name, e in manifest.files.items() if name != "model.ts"})
    assert chosen(lenet_artifact, manifest) == "model.onnx"


def test_torch_is_not_imported_to_find_out_where_there_is_no_gpu(
    lenet_artifact: Path, machine: pytest.MonkeyPatch
) -> None:
    machine.setattr("export.engines.selection.cuda_unavailable_reason", lambda: "there is no NVIDIA driver")
    machine.setattr(torch.cuda, "is_available", lambda: pytest.fail("torch was asked"))
    assert chosen(lenet_artifact, read_manifest(lenet_artifact)) == "model.onnx"


def test_a_package_without_cuda_is_named_where_cuda_is_wanted(
    lenet_artifact: Path, machine: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        EngineError, match="device is cuda, but there is no CUDA provider in this build of ONNX Runtime"
    ):
        open_engine(lenet_artifact, read_manifest(lenet_artifact), engine="onnxruntime", device="cuda")


def test_auto_opens_sessions_on_the_cpu_with_such_a_package(lenet_artifact: Path, machine: pytest.MonkeyPatch) -> None:
    content = (lenet_artifact / "model.onnx").read_bytes()
    assert open_session(content, device="auto", threads=1).get_providers() == ["CPUExecutionProvider"]
    manifest = read_manifest(lenet_artifact)
    values = [node.value for node in manifest.nodes if node.name == "conv1"]
    images = np.zeros((1, *manifest.input.shape), np.uint8)
    _, (conv,) = OnnxFeatureExtractor(lenet_artifact / "model.onnx", (), device="auto").run(images, values)
    assert conv.shape == (1, 6, 28, 28)
