"""model.aoti.pt2: the compiled package agrees with the network, names no folder of this machine, and is bound to it."""

import getpass
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.artifact.manifest import FileEntry, Manifest, read_manifest
from export.engines.machine import incompatible_files, this_machine
from export.engines.protocol import EngineError
from export.engines.torch import AotiEngine
from export.pipeline.export import export_checkpoint
from export.verify.reference import reference
from export.verify.verification import verify_artifact
from export.writers import aoti as aoti_file
from models.checkpoint.directory import load_checkpoint
from models.checkpoint.samples import load_samples
from service.settings import SettingsError, read_settings
from tests.conftest import make_checkpoint


@pytest.mark.acceptance  # a C++ compiler is needed, and minutes
def test_a_package_agrees_is_verified_here_and_names_no_folder(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "run", model="resnet20", size=8, channels=3, count=9)
    artifact = export_checkpoint(checkpoint, out=tmp_path / "artifacts", formats=["onnx", "aoti"])
    path, manifest = artifact / "model.aoti.pt2", read_manifest(artifact)
    assert manifest.files[path.name].machine == this_machine() and not manifest.files["model.onnx"].machine
    package, images = torch._inductor.aoti_load_package(str(path)), load_samples(checkpoint / "samples.npz").images
    wanted, _ = reference(load_checkpoint(checkpoint))(images)
    for batch in (1, 2, 9):
        found, _ = package(torch.from_numpy(images[:batch].copy()))
        np.testing.assert_allclose(found.numpy(), wanted[:batch], rtol=0, atol=1e-5)
    verified = verify_artifact(artifact)
    assert [report.file for report in verified.files] == ["model.onnx", path.name] and not verified.skipped
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("convscope.json"))["classes"] == list(manifest.classes)
        private = [str(Path(__file__).parents[3]), str(Path.home()), "site-packages", getpass.getuser() + "/", "/tmp/"]
        for entry in archive.namelist():
            content = archive.read(entry)
            assert not [text for text in private if text.encode() in content], entry


def entry_of(machine: dict[str, Any]) -> FileEntry:
    return FileEntry(sha256="", size_bytes=1, machine=machine)


@pytest.mark.parametrize(
    ("change", "bound"),
    [({}, False), ({"cores": 4096}, False), ({"processor": "Z80"}, True), ({"versions": {"torch": "1.0"}}, True)],
)
def test_a_package_of_another_processor_or_torch_is_left_alone(
    lenet_artifact: Path, change: dict[str, Any], bound: bool
) -> None:
    manifest: Manifest = replace(
        read_manifest(lenet_artifact),
        files={"model.onnx": entry_of({}), "model.aoti.pt2": entry_of({**this_machine(), **change})},
    )
    assert list(incompatible_files(manifest)) == (["model.aoti.pt2"] if bound else [])


def test_without_a_compiler_it_says_what_to_install(
    lenet_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aoti_file.shutil, "which", lambda command: None)
    with pytest.raises(ValueError, match=r"aoti needs the commands g\+\+ and strip"):
        export_checkpoint(lenet_checkpoint, out=tmp_path / "artifacts", formats=["aoti"])
    assert list((tmp_path / "artifacts").iterdir()) == []


def test_the_server_cannot_be_told_to_run_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVSCOPE_ENGINE", "aoti")
    with pytest.raises(SettingsError, match="CONVSCOPE_ENGINE"):
        read_settings()


def test_a_file_that_is_no_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.aoti.pt2").write_bytes(b"no archive")
    with pytest.raises(EngineError, match=r"torch cannot open .*model\.aoti\.pt2"):
        AotiEngine(tmp_path / "model.aoti.pt2", device="cpu")
    with pytest.raises(EngineError, match="was compiled for the CPU"):
        AotiEngine(tmp_path / "model.aoti.pt2", device="cuda")
