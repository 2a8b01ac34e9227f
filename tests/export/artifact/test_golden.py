"""Golden images: what the trained network says of real images, checked against whatever file is loaded."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.artifact.directory import StagedArtifact, file_entry, publish
from export.artifact.golden import TOLERANCE, check_golden, load_golden, save_golden
from export.artifact.manifest import ArtifactError, Manifest, check_files, read_manifest
from export.engines.selection import open_engine
from export.pipeline.export import export_checkpoint
from export.verify.verification import verify_artifact
from models.checkpoint.directory import load_checkpoint
from models.images.decode import Floats, Pixels
from tests.conftest import RAW_COUNT, digit_images, make_checkpoint, make_spec


class Fake:
    """An engine that gives what it is told to."""

    name, file = "onnxruntime", "model.onnx"

    def __init__(self, probabilities: Floats, device: str = "cpu") -> None:
        self.device: Any = device
        self._probabilities = probabilities

    def run(self, images: Pixels) -> tuple[Floats, Floats]:
        return self._probabilities, self._probabilities


@pytest.fixture(scope="module")
def manifest(lenet_artifact: Path) -> Manifest:
    return read_manifest(lenet_artifact)


def test_golden_images_are_the_originals_and_their_probabilities_the_networks(
    lenet_checkpoint: Path, lenet_artifact: Path, manifest: Manifest
) -> None:
    with np.load(lenet_artifact / "golden.npz") as file:
        stored = [file[f"raw_{index:03}"] for index in range(RAW_COUNT)]
    assert all(np.array_equal(a, b) for a, b in zip(stored, digit_images(1, RAW_COUNT), strict=True))
    images, expected = load_golden(lenet_artifact, manifest)
    assert images.shape == (RAW_COUNT, 28, 28, 1)
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - manifest.input.mean[0]) / manifest.input.std[0]
    with torch.no_grad():
        wanted = load_checkpoint(lenet_checkpoint).network(x).softmax(1)
    np.testing.assert_allclose(expected, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["onnxruntime", "torchscript"])
def test_a_sound_artifact_passes(lenet_artifact: Path, manifest: Manifest, name: Any) -> None:
    engine = open_engine(lenet_artifact, manifest, engine=name, device="cpu")
    assert check_golden(engine, lenet_artifact, manifest) < 1e-5


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_tolerance_is_that_of_the_device(lenet_artifact: Path, manifest: Manifest, device: str) -> None:
    _, expected = load_golden(lenet_artifact, manifest)
    within, beyond = expected.copy(), expected.copy()
    within[3, 2] += 0.9 * TOLERANCE[device]
    beyond[3, 2] += 1.1 * TOLERANCE[device]
    difference = check_golden(Fake(within, device), lenet_artifact, manifest)
    assert difference == pytest.approx(0.9 * TOLERANCE[device], rel=0.01)
    says = (
        rf"model.onnx: golden image 3 differs by 0.0\d+ .*on onnxruntime \({device}\); the limit is {TOLERANCE[device]}"
    )
    with pytest.raises(ArtifactError, match=says):
        check_golden(Fake(beyond, device), lenet_artifact, manifest)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p * np.float32("nan"), "golden image 0 differs by nan"),
        (lambda p: p[:, :9], r"gives \(8, 9\) for golden images, .* want \(8, 10\)"),
        (lambda p: p[:1], r"gives \(1, 10\) for golden images, .* want \(8, 10\)"),
    ],
)
def test_outputs_that_are_no_probabilities_fail(
    lenet_artifact: Path, manifest: Manifest, change: Callable[[Floats], Floats], says: str
) -> None:
    with pytest.raises(ArtifactError, match=says):
        check_golden(Fake(change(load_golden(lenet_artifact, manifest)[1])), lenet_artifact, manifest)


def test_another_first_class_fails_however_close_it_is(lenet_artifact: Path, manifest: Manifest) -> None:
    expected = load_golden(lenet_artifact, manifest)[1]
    tied = expected.copy()
    first, second = np.argsort(-tied[2])[:2]
    tied[2, [first, second]] = tied[2, [first, second]].mean() + np.array([0, 1e-6], np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.artifact.golden.TOLERANCE", {"cpu": 1.0})
        with pytest.raises(ArtifactError, match="golden image 2 is of another class than recorded"):
            check_golden(Fake(tied), lenet_artifact, manifest)


def test_another_networks_file_fails_even_with_the_hashes_fixed_up(lenet_artifact: Path, tmp_path: Path) -> None:
    other = export_checkpoint(make_checkpoint(tmp_path / "other", seed=1), out=tmp_path, formats=["onnx"])
    staging = shutil.copytree(lenet_artifact, tmp_path / "lenet" / "staging")
    shutil.copyfile(other / "model.onnx", staging / "model.onnx")
    forged = read_manifest(staging)
    files = {**forged.files, "model.onnx": file_entry(staging / "model.onnx", forged.files["model.onnx"].parity)}
    directory = publish(StagedArtifact(staging, 2), replace(forged, files=files))
    check_files(directory, read_manifest(directory))  # hashes alone do not show it
    engine = open_engine(directory, read_manifest(directory), engine="onnxruntime", device="cpu")
    with pytest.raises(ArtifactError, match=r"model.onnx: golden image \d differs by 0.\d+ from the trained network"):
        check_golden(engine, directory, read_manifest(directory))
    with pytest.raises(ArtifactError, match=r"model.onnx: golden image"):
        verify_artifact(directory)


def test_other_resizing_fails(lenet_artifact: Path, manifest: Manifest) -> None:
    drifted = replace(manifest, input=replace(manifest.input, interpolation="nearest"))
    engine = open_engine(lenet_artifact, manifest, device="cpu")
    with pytest.raises(ArtifactError, match="golden image"):
        check_golden(engine, lenet_artifact, drifted)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_named(lenet_artifact: Path, manifest: Manifest, tmp_path: Path, share: float) -> None:
    content = (lenet_artifact / "golden.npz").read_bytes()
    (tmp_path / "golden.npz").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ArtifactError, match=r"golden\.npz: "):
        load_golden(tmp_path, manifest)


def test_a_missing_file_is_named(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"golden\.npz: .*No such file"):
        load_golden(tmp_path, manifest)


def test_nothing_in_the_file_is_unpickled(manifest: Manifest, tmp_path: Path) -> None:
    np.savez(tmp_path / "golden.npz", probabilities=np.array([object()], dtype=object))
    with pytest.raises(ArtifactError, match=r"golden\.npz: .*allow_pickle"):
        load_golden(tmp_path, manifest)


def test_images_of_different_sizes_and_modes_come_back(manifest: Manifest, tmp_path: Path) -> None:
    raw = (*digit_images(3, 1), np.full((5, 40), 7, np.uint8), np.zeros((40, 5, 3), np.uint8))
    save_golden(tmp_path, raw, np.zeros((3, 10), np.float32))
    for spec in (make_spec(28, 1), make_spec(16, 3)):
        images, expected = load_golden(tmp_path, replace(manifest, input=spec))
        assert images.shape == (3, *spec.shape) and expected.shape == (3, 10)
        assert (images[1] == 7).all() and (images[2] == 0).all()
