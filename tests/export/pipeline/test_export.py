"""What is published was compared with the trained network; what differs from it is not published."""

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export.artifact.directory import find_versions
from export.artifact.identity import FileIdentity
from export.artifact.manifest import read_manifest
from export.engines.torch import quiet_torchscript
from export.pipeline.export import export_checkpoint
from export.verify.parity import ParityError
from export.verify.reference import rebuild
from export.verify.verification import verify_artifact
from export.writers.deployable import Deployable
from export.writers.torchscript import write_torchscript
from models.checkpoint.directory import Checkpoint, load_checkpoint
from models.checkpoint.names import CheckpointError
from models.checkpoint.samples import load_samples
from tests.conftest import Exported, make_checkpoint


def test_the_manifest_says_what_was_trained_and_measured(exported: Exported) -> None:
    manifest, checkpoint = read_manifest(exported.artifact), load_checkpoint(exported.checkpoint)
    config, samples = checkpoint.config, load_samples(exported.checkpoint / "samples.npz")
    for name in ("classes", "input", "temperature", "model", "options", "metrics", "dataset", "versions"):
        assert getattr(manifest, name) == getattr(config, name), name
    for file in ("model.onnx", "model.ts"):
        parity = manifest.files[file].parity
        assert parity["batches"] == [1, 2, 7, 64, 256] and parity["images"] == len(samples.images)
        assert 0 < parity["maximum_difference"] <= parity["limit"] == 1e-5
        assert manifest.files[file].images_per_s.keys() == {"1", "32"}
        assert min(manifest.files[file].images_per_s.values()) > 0
    assert manifest.reference["accuracy"] is None and min(manifest.reference["images_per_s"].values()) > 0
    assert exported.artifact.parts[-2:] == (exported.checkpoint.name, "1")


def test_the_network_is_rebuilt_from_the_artifact_alone(exported: Exported) -> None:
    rebuilt = rebuild(exported.artifact, read_manifest(exported.artifact))
    wanted = load_checkpoint(exported.checkpoint).network
    torch.testing.assert_close(rebuilt.network.state_dict(), wanted.state_dict(), rtol=0, atol=0)
    assert not rebuilt.network.training


def test_verification_repeats_the_comparison(exported: Exported) -> None:
    reports = verify_artifact(exported.artifact).files
    assert [(r.file, r.engine, r.device) for r in reports] == [
        ("model.onnx", "onnxruntime", "cpu"),
        ("model.ts", "torchscript", "cpu"),
    ]
    assert all(r.parity.maximum_difference <= 1e-5 and r.golden_difference <= 1e-4 for r in reports)
    assert all(r.accuracy is None for r in reports)


@pytest.mark.parametrize(("formats", "files"), [(["torchscript"], {"model.ts"}), (["torchscript"] * 2, {"model.ts"})])
def test_only_the_formats_asked_for_are_written(
    lenet_checkpoint: Path, tmp_path: Path, formats: list[str], files: set[str]
) -> None:
    lines: list[str] = []
    path = export_checkpoint(lenet_checkpoint, out=tmp_path, name="other", formats=formats, report=lines.append)
    assert path == tmp_path / "other" / "1"
    assert set(os.listdir(path)) == {*files, "manifest.json", "weights.safetensors", "golden.npz"}
    assert lines == ["model.ts: comparing it with the trained network"]
    assert all(node.value == "" for node in read_manifest(path).nodes)


def test_versions_count_up(lenet_checkpoint: Path, tmp_path: Path) -> None:
    made = [export_checkpoint(lenet_checkpoint, out=tmp_path, formats=["torchscript"]) for _ in range(2)]
    assert [read_manifest(path).version for path in made] == [1, 2]
    assert find_versions(tmp_path) == made


def wrong_mean(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, config=replace(checkpoint.config, input=replace(checkpoint.config.input, mean=(0.5,))))


def swapped_classes(checkpoint: Checkpoint) -> Checkpoint:
    last = checkpoint.network.fc[-1]  # type: ignore[index]
    with torch.no_grad():
        last.weight.copy_(last.weight.flip(0).clone())
        last.bias.copy_(last.bias.flip(0).clone())
    return checkpoint


class FrozenBatch(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x.reshape(1, 1, 28, 28))  # type: ignore[no-any-return]


def explain_fixed_batch(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, network=FrozenBatch(checkpoint.network))


def other_temperature(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, config=replace(checkpoint.config, temperature=1.1))


def write_broken(monkeypatch: pytest.MonkeyPatch, breaking: Callable[[Checkpoint], Checkpoint]) -> None:
    def write(checkpoint: Checkpoint, example: Any, path: Path, *, precision: str, identity: FileIdentity) -> None:
        # A copy, or the reference would be broken with it.
        broken = breaking(replace(checkpoint, network=copy.deepcopy(checkpoint.network)))
        write_torchscript(broken, example[:1], path)

    monkeypatch.setattr("export.writers.registry.write_torchscript", write)


@pytest.mark.parametrize(
    ("breaking", "says"),
    [
        (wrong_mean, r"model.ts: at batch 1 image \d+ differs by 0.\d+ .*it says class \d.*80 of 80 images differ"),
        (swapped_classes, "model.ts: .*the classes are swapped"),
        (explain_fixed_batch, "model.ts: at batch 2 the file does not run"),
        (other_temperature, r"model.ts: at batch 1 image \d+ differs by 0.\d+"),
    ],
)
def test_a_broken_export_publishes_nothing(
    lenet_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    breaking: Callable[[Checkpoint], Checkpoint],
    says: str,
) -> None:
    write_broken(monkeypatch, breaking)
    with pytest.raises(ParityError, match=f"{says}.*; nothing was exported"):
        export_checkpoint(lenet_checkpoint, out=tmp_path, formats=["torchscript"])
    assert os.listdir(tmp_path) == []


def test_an_export_with_dropout_on_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(checkpoint: Checkpoint, example: Any, path: Path, *, precision: str, identity: FileIdentity) -> None:
        with quiet_torchscript():
            module = torch.jit.script(Forgotten(checkpoint))
            torch.jit.save(module, str(path))

    class Forgotten(nn.Module):
        def __init__(self, checkpoint: Checkpoint) -> None:
            super().__init__()
            torch.manual_seed(0)
            with quiet_torchscript():
                example = torch.zeros(2, 32, 32, 1, dtype=torch.uint8)
                self.inner = torch.jit.trace(Deployable(checkpoint).train(), (example,), check_trace=False)

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.inner(image)  # type: ignore[no-any-return]

    monkeypatch.setattr("export.writers.registry.write_torchscript", write)
    checkpoint = make_checkpoint(tmp_path / "run", model="simple_cnn", size=32, count=9)
    with pytest.raises(ParityError, match=r"model.ts: at batch 1 image \d differs by 0.\d+ .*of 9 images differ"):
        export_checkpoint(checkpoint, out=tmp_path / "artifacts", formats=["torchscript"])
    assert os.listdir(tmp_path / "artifacts") == []


UNSEEN = """
import torch
from torch import nn


class Unseen(nn.Module):
    def __init__(self, *, classes):
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, classes)

    def forward(self, x):
        x = self.conv(x)
        if isinstance(x, torch.Tensor):
            x = x.relu()
        return self.last(x.flatten(1))
"""


def test_a_network_whose_graph_computes_something_else_is_not_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("unseen_at_export.py").write_text(UNSEEN)
    checkpoint = make_checkpoint(tmp_path / "run", model="unseen_at_export:Unseen", size=8, count=9)
    with pytest.raises(ValueError, match="Unseen cannot be traced: the graph differs from the network at last"):
        export_checkpoint(checkpoint, out=tmp_path / "artifacts", formats=["onnx"])
    assert not (tmp_path / "artifacts").exists()


def test_a_failed_export_leaves_the_last_version(
    lenet_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = export_checkpoint(lenet_checkpoint, out=tmp_path, formats=["torchscript"])
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    write_broken(monkeypatch, wrong_mean)
    with pytest.raises(ParityError, match="nothing was exported"):
        export_checkpoint(lenet_checkpoint, out=tmp_path, formats=["torchscript"])
    assert os.listdir(tmp_path / "lenet") == ["1"]
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before


def test_every_file_is_compared_not_the_first_alone(
    lenet_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_broken(monkeypatch, wrong_mean)
    with pytest.raises(ParityError, match=r"^model.ts: "):
        export_checkpoint(lenet_checkpoint, out=tmp_path, formats=["onnx", "torchscript"])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"formats": ["onnx", "coreml"]}, "no format is called 'coreml'; known are onnx, torchscript, pt2"),
        ({"formats": []}, "no format was given; known are onnx, torchscript, pt2"),
        ({"name": "a/b"}, "'a/b' cannot be an artifact's name"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    lenet_checkpoint: Path, tmp_path: Path, more: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        export_checkpoint(lenet_checkpoint, out=tmp_path, **more)
    assert os.listdir(tmp_path) == []


def test_a_checkpoint_without_samples_or_config_is_refused(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "run", count=8)
    (checkpoint / "samples.npz").unlink()
    with pytest.raises(ValueError, match=r"samples\.npz holds no sample images"):
        export_checkpoint(checkpoint, out=tmp_path / "artifacts")
    (checkpoint / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        export_checkpoint(checkpoint, out=tmp_path / "artifacts")
    assert not (tmp_path / "artifacts").exists()


def test_the_sample_images_are_as_the_network_takes_them(lenet_checkpoint: Path) -> None:
    samples = load_samples(lenet_checkpoint / "samples.npz")
    assert samples.images.shape == (80, 28, 28, 1) and samples.images.dtype == np.uint8
    assert len(set(samples.labels.tolist())) == 10
