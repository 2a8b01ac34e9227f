"""Engines open what is there, on the device that is there, and say what is missing."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.artifact.directory import file_entry
from export.artifact.manifest import ArtifactError, FileEntry, Manifest, read_manifest
from export.engines.cuda import cuda_unavailable_reason
from export.engines.onnxruntime import (
    OnnxEngine,
    OnnxFeatureExtractor,
    cuda_provider_unavailable_reason,
    open_session,
)
from export.engines.protocol import EngineError
from export.engines.selection import open_engine
from export.engines.torch import TorchScriptEngine
from models.images.decode import Pixels

without_gpu = pytest.mark.skipif(cuda_unavailable_reason() is None, reason="there is a GPU here")


@pytest.fixture(scope="module")
def manifest(lenet_artifact: Path) -> Manifest:
    return read_manifest(lenet_artifact)


@pytest.fixture(scope="module")
def images() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), dtype=np.uint8)


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (("model.onnx", "model.ts"), ("onnxruntime", "model.onnx")),
        (("model.onnx",), ("onnxruntime", "model.onnx")),
        (("model.ts",), ("torchscript", "model.ts")),
    ],
)
def test_auto_takes_onnx_runtime_where_there_is_an_onnx_file(
    lenet_artifact: Path, manifest: Manifest, files: tuple[str, ...], wanted: tuple[str, str]
) -> None:
    fewer = replace(manifest, files={name: manifest.files[name] for name in files})
    engine = open_engine(lenet_artifact, fewer, device="cpu")
    assert (engine.name, engine.file) == wanted


@pytest.mark.parametrize("engine", ["onnxruntime", "torchscript"])
def test_a_file_that_the_manifest_does_not_list_is_not_opened(
    lenet_artifact: Path, manifest: Manifest, engine: Any
) -> None:
    fewer = replace(manifest, files={"golden.npz": manifest.files["golden.npz"]})
    with pytest.raises(EngineError, match=rf"has no model\.\w+ for the engine {engine}; it has golden.npz"):
        open_engine(lenet_artifact, fewer, engine=engine)


@pytest.mark.parametrize(("engine", "file"), [("onnxruntime", "model.onnx"), ("torchscript", "model.ts")])
@pytest.mark.parametrize("content", [b"", b"no model"])
def test_a_file_that_is_no_model_is_an_engine_error(
    tmp_path: Path, manifest: Manifest, engine: Any, file: str, content: bytes
) -> None:
    (tmp_path / file).write_bytes(content)
    listed = replace(manifest, files={**manifest.files, file: file_entry(tmp_path / file)})
    with pytest.raises(EngineError, match="cannot open"):
        open_engine(tmp_path, listed, engine=engine, device="cpu")


@pytest.mark.parametrize(("engine", "file"), [("onnxruntime", "model.onnx"), ("torchscript", "model.ts")])
@pytest.mark.parametrize(("content", "says"), [(None, "does not exist"), (b"no model", "sha256 is")])
def test_a_file_that_is_gone_or_was_changed_is_not_opened(
    tmp_path: Path, manifest: Manifest, engine: Any, file: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{file}:? {says}"):
        open_engine(tmp_path, manifest, engine=engine, device="cpu")


@without_gpu
@pytest.mark.parametrize("engine", ["auto", "onnxruntime", "torchscript"])
def test_cuda_where_there_is_none_says_what_is_missing(lenet_artifact: Path, manifest: Manifest, engine: Any) -> None:
    with pytest.raises(EngineError, match=r"device is cuda, but (there is no NVIDIA|the NVIDIA) driver"):
        open_engine(lenet_artifact, manifest, engine=engine, device="cuda")


@without_gpu
@pytest.mark.parametrize(("engine", "file"), [(OnnxEngine, "model.onnx"), (TorchScriptEngine, "model.ts")])
def test_an_engine_by_itself_never_takes_the_cpu_for_cuda(lenet_artifact: Path, engine: Any, file: str) -> None:
    with pytest.raises(EngineError, match="device is cuda, but "):
        engine(lenet_artifact / file, device="cuda")


@without_gpu
@pytest.mark.parametrize("engine", ["onnxruntime", "torchscript"])
def test_auto_falls_to_the_cpu(lenet_artifact: Path, manifest: Manifest, engine: Any, images: Pixels) -> None:
    opened = open_engine(lenet_artifact, manifest, engine=engine, device="auto", threads=1)
    assert opened.device == "cpu"
    probabilities, logits = opened.run(images)
    assert probabilities.shape == logits.shape == (3, 10)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)


@pytest.mark.skipif(cuda_unavailable_reason() is not None, reason="there is no GPU here")
@pytest.mark.parametrize("engine", ["onnxruntime", "torchscript"])
def test_the_gpu_gives_the_cpus_answers(lenet_artifact: Path, manifest: Manifest, engine: Any, images: Pixels) -> None:
    if engine == "onnxruntime" and (reason := cuda_provider_unavailable_reason()):
        pytest.skip(reason)
    on_gpu = open_engine(lenet_artifact, manifest, engine=engine, device="cuda")
    assert on_gpu.device == "cuda"
    wanted = open_engine(lenet_artifact, manifest, engine=engine, device="cpu").run(images)[1]
    with ThreadPoolExecutor(2) as pool:  # as the server calls it; TF32 would differ by a thousandth
        found = [on_gpu.run(images)[1], *(one[1] for one in pool.map(on_gpu.run, [images] * 4))]
    for logits in found:
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=3e-5 * np.abs(wanted).max())


def with_external_data(folder: Path, location: str) -> bytes:
    """A model whose weights are said to lie in another file."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4], np.ones(4, np.float32).tobytes(), raw=True)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["probabilities"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


@pytest.mark.parametrize("location", ["../secret.bin", "secret.bin", "ABSOLUTE"])
def test_weights_outside_the_file_are_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    folder = tmp_path / "artifact"
    folder.mkdir()
    for place in (tmp_path, folder):
        (place / "secret.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    location = str(tmp_path / "secret.bin") if location == "ABSOLUTE" else location
    (folder / "model.onnx").write_bytes(with_external_data(folder, location))
    monkeypatch.chdir(folder.parent if location == "secret.bin" else folder / "..")
    with pytest.raises(EngineError, match=r"cannot open the model: .*[Ee]xternal"):
        OnnxEngine(folder / "model.onnx", device="cpu")


def test_a_session_reads_bytes_and_no_file(lenet_artifact: Path, images: Pixels) -> None:
    session = open_session((lenet_artifact / "model.onnx").read_bytes(), device="cpu", threads=1)
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert session.run(["logits"], {"image": images})[0].shape == (3, 10)


def test_taps_give_the_served_files_probabilities(lenet_artifact: Path, manifest: Manifest, images: Pixels) -> None:
    taps = OnnxFeatureExtractor(lenet_artifact / "model.onnx", manifest.nodes)
    probabilities, (relu,) = taps.run(images, ["relu"])
    served, _ = OnnxEngine(lenet_artifact / "model.onnx", device="cpu").run(images)
    np.testing.assert_allclose(probabilities, served, rtol=0, atol=1e-6)
    assert relu.shape == (3, 6, 28, 28) and relu.min() == 0 and relu.max() > 0
    assert len(onnx.load(lenet_artifact / "model.onnx").graph.output) == 2


def test_an_entry_needs_no_parity() -> None:
    assert FileEntry(sha256="ab", size_bytes=1).parity == {}
