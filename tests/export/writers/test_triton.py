"""A Triton model repository is what Triton's own schema and the exported files say, and is added to, not damaged."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf import text_format

from export.artifact.manifest import ArtifactError, read_manifest
from export.engines.torch import quiet_torchscript
from export.writers.triton import TritonError, write_triton
from models.files import UnwritableError

NUMPY_TYPES = {"TYPE_UINT8": "tensor(uint8)", "TYPE_FP32": "tensor(float)"}


@pytest.fixture(scope="session")
def triton() -> ModuleType:
    """Triton's messages. Imported by path: the package around the module would want gRPC too."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None and package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "grpc/model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def config(triton: ModuleType) -> Any:
    """Reads a model's configuration; unknown words are errors."""
    return lambda folder: text_format.Parse((folder / "config.pbtxt").read_text(), triton.ModelConfig())


def changed(artifact: Path, folder: Path, *, without: str = "", **changes: Any) -> Path:
    """A copy of an artifact whose manifest says something else."""
    manifest = read_manifest(artifact)
    files = {name: entry for name, entry in manifest.files.items() if name != without}
    shutil.copytree(artifact, folder)
    content = replace(manifest, **{"files": files, **changes}).to_json()
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shapes(values: list[Any]) -> list[tuple[Any, ...]]:
    return [(value.name, value.type, value.shape[1:]) for value in values]


def test_the_configuration_is_that_of_the_onnx_file(
    lenet_artifact: Path, tmp_path: Path, triton: ModuleType, config: Any
) -> None:
    folder = write_triton(lenet_artifact, tmp_path / "triton")
    found = config(folder)
    assert folder == tmp_path / "triton" / found.name
    assert (found.backend, found.platform) == ("onnxruntime", "onnxruntime_onnx")
    assert (folder / "1/model.onnx").read_bytes() == (lenet_artifact / "model.onnx").read_bytes()
    session = onnxruntime.InferenceSession(folder / "1/model.onnx", providers=["CPUExecutionProvider"])
    for ours, theirs in ((found.input, session.get_inputs()), (found.output, session.get_outputs())):
        named = [(each.name, NUMPY_TYPES[triton.DataType.Name(each.data_type)], list(each.dims)) for each in ours]
        assert named == shapes(theirs)
    images = np.zeros((found.max_batch_size, *found.input[0].dims), np.uint8)
    assert len(session.run(["probabilities"], {"image": images})[0]) == 64


def test_how_it_is_run_is_as_documented(lenet_artifact: Path, tmp_path: Path, triton: ModuleType, config: Any) -> None:
    found = config(write_triton(lenet_artifact, tmp_path))
    assert found.max_batch_size == 64
    assert found.dynamic_batching.max_queue_delay_microseconds == 1000
    assert found.version_policy.WhichOneof("policy_choice") == "all"
    assert [group.kind for group in found.instance_group] == [triton.ModelInstanceGroup.KIND_AUTO]
    assert [output.label_filename for output in found.output] == ["labels.txt", ""]


def test_an_artifact_without_onnx_is_for_the_pytorch_backend(lenet_artifact: Path, tmp_path: Path, config: Any) -> None:
    folder = write_triton(changed(lenet_artifact, tmp_path / "a", without="model.onnx"), tmp_path / "triton")
    found = config(folder)
    assert (found.backend, found.platform) == ("pytorch", "pytorch_libtorch")
    with quiet_torchscript():
        model = torch.jit.load(folder / "1/model.pt")
    (image,) = found.input
    assert image.name.split("__")[1] == "0"
    outputs = model(torch.zeros(2, *image.dims, dtype=torch.uint8))
    by_name = {output.name.split("__")[0]: outputs[int(output.name.split("__")[1])] for output in found.output}
    torch.testing.assert_close(by_name["probabilities"], by_name["logits"].softmax(1))
    assert [list(output.dims) for output in found.output] == [list(by_name["logits"].shape[1:])] * 2


def test_labels_are_the_classes_in_order_whatever_they_are_called(lenet_artifact: Path, tmp_path: Path) -> None:
    classes = ("", "a b", '"', "\N{GREEK SMALL LETTER ALPHA}", "x\u2028y", "\\n", "#", ":", "\t", "end")
    folder = write_triton(changed(lenet_artifact, tmp_path / "a", classes=classes), tmp_path / "triton")
    assert (folder / "labels.txt").read_bytes().decode().split("\n") == [*classes, ""]


@pytest.mark.parametrize("name", ["two\nlines", "two\rlines"])
def test_a_class_name_with_a_line_break_is_refused(name: str, lenet_artifact: Path, tmp_path: Path) -> None:
    artifact = changed(lenet_artifact, tmp_path / "a", classes=(*"012345678", name))
    with pytest.raises(TritonError, match=r"class 9 is 'two\\[nr]lines'"):
        write_triton(artifact, tmp_path / "triton")
    assert not (tmp_path / "triton").exists()


def test_a_version_is_added_beside_the_others_and_what_was_tuned_stays(lenet_artifact: Path, tmp_path: Path) -> None:
    folder = write_triton(lenet_artifact, tmp_path / "triton")
    tuned = (folder / "config.pbtxt").read_text().replace("max_batch_size: 64", "max_batch_size: 8")
    (folder / "config.pbtxt").write_text(tuned)
    before = contents(tmp_path / "triton")
    assert write_triton(changed(lenet_artifact, tmp_path / "b", version=12), tmp_path / "triton") == folder
    model = (lenet_artifact / "model.onnx").read_bytes()
    assert contents(tmp_path / "triton") == {**before, "lenet/12/model.onnx": model}


def test_another_name_is_another_model(lenet_artifact: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_triton(changed(lenet_artifact, tmp_path / name, name=name), tmp_path / "triton")
    assert sorted(path.name for path in (tmp_path / "triton").iterdir()) == ["one", "two"]


def test_the_same_version_again_changes_nothing(lenet_artifact: Path, tmp_path: Path) -> None:
    folder = write_triton(lenet_artifact, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert write_triton(lenet_artifact, tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": tuple("abcdefghij")}, r"labels\.txt has other classes"),
        ({"classes": tuple("0123456")}, r"does not say `output .*\[ 7 \].*`; all versions"),
        ({"without": "model.onnx"}, 'does not say `backend: "pytorch"`'),
        ({"input": {"height": 32, "width": 32, "resize": (32, 32)}}, r"does not say `input .*\[ 32, 32, 1 \]"),
    ],
)
def test_a_version_that_differs_is_refused(
    changes: dict[str, Any], message: str, lenet_artifact: Path, tmp_path: Path
) -> None:
    write_triton(lenet_artifact, tmp_path / "triton")
    before = contents(tmp_path / "triton")
    if size := changes.get("input"):
        changes = {"input": replace(read_manifest(lenet_artifact).input, **size)}
    with pytest.raises(TritonError, match=message):
        write_triton(changed(lenet_artifact, tmp_path / "b", version=2, **changes), tmp_path / "triton")
    assert contents(tmp_path / "triton") == before


def test_another_file_under_the_same_version_is_refused(lenet_artifact: Path, tmp_path: Path) -> None:
    (write_triton(lenet_artifact, tmp_path) / "1/model.onnx").write_bytes(b"other")
    with pytest.raises(TritonError, match=r"1/model\.onnx is there already with sha256 [0-9a-f]{12}\.\.\., the artif"):
        write_triton(lenet_artifact, tmp_path)


def test_a_folder_that_is_no_model_is_refused(lenet_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "lenet/1").mkdir(parents=True)
    with pytest.raises(TritonError, match=r"lenet is no model of Triton's: it has no config\.pbtxt"):
        write_triton(lenet_artifact, tmp_path)


def test_an_artifact_without_a_file_for_triton_is_refused(lenet_artifact: Path, tmp_path: Path) -> None:
    artifact = changed(lenet_artifact, tmp_path / "a", files={})
    with pytest.raises(TritonError, match=r"lenet:1 has neither model\.onnx nor model\.ts"):
        write_triton(artifact, tmp_path / "triton")


def test_a_damaged_artifact_is_refused(lenet_artifact: Path, tmp_path: Path) -> None:
    artifact = changed(lenet_artifact, tmp_path / "a")
    (artifact / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=r"model\.onnx: sha256 is"):
        write_triton(artifact, tmp_path / "triton")


@pytest.mark.parametrize("first", [True, False])
def test_a_full_disk_leaves_nothing(
    first: bool, lenet_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = changed(lenet_artifact, tmp_path / "b", version=2)
    (tmp_path / "triton").mkdir()
    if not first:
        write_triton(lenet_artifact, tmp_path / "triton")
    before = sorted((tmp_path / "triton").rglob("*"))

    def half(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:10])
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", half)
    with pytest.raises(OSError, match="No space left on device"):
        write_triton(artifact, tmp_path / "triton")
    assert sorted((tmp_path / "triton").rglob("*")) == before


def test_a_repository_that_cannot_be_made_is_named(lenet_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwritableError, match="file cannot be written"):
        write_triton(lenet_artifact, tmp_path / "file")
