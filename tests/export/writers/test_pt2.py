"""model.pt2: what torch.export saved agrees with the network, says what it is, and tells nothing of this machine."""

import getpass
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from export.artifact.manifest import ArtifactError, read_manifest
from export.engines.protocol import EngineError
from export.engines.torch import Pt2Engine
from export.pipeline.export import export_checkpoint
from export.verify.reference import reference
from export.verify.verification import verify_artifact
from export.writers.pt2 import write_pt2
from models.checkpoint.directory import Checkpoint, load_checkpoint
from models.checkpoint.samples import load_samples
from service.settings import SettingsError, read_settings
from tests.conftest import make_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("runs") / "resnet", model="resnet20", size=8, channels=3, count=9)


@pytest.fixture(scope="module")
def artifact(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_checkpoint(checkpoint, out=tmp_path_factory.mktemp("artifacts"), formats=["onnx", "pt2"])


def test_torch_alone_loads_it_and_gets_the_same(artifact: Path, checkpoint: Path) -> None:
    extra = {"convscope.json": ""}
    program = torch.export.load(artifact / "model.pt2", extra_files=extra)
    images = load_samples(checkpoint / "samples.npz").images
    wanted = reference(load_checkpoint(checkpoint))(images)
    for batch in (1, 2, 9):
        found = program.module()(torch.from_numpy(images[:batch].copy()))
        np.testing.assert_allclose(found[0].detach(), wanted[0][:batch], rtol=0, atol=1e-5)
        np.testing.assert_allclose(found[1].detach(), wanted[1][:batch], rtol=0, atol=1e-4)
    about, manifest = json.loads(extra["convscope.json"]), read_manifest(artifact)
    assert about["classes"] == list(manifest.classes)
    assert about["weights_sha256"] == manifest.files["weights.safetensors"].sha256


def test_it_is_verified_like_the_others_and_damage_is_caught(artifact: Path) -> None:
    assert [report.file for report in verify_artifact(artifact).files] == ["model.onnx", "model.pt2"]
    path = artifact / "model.pt2"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-7] + b"damaged")
        with pytest.raises(ArtifactError, match=r"model.pt2: sha256 is"):
            verify_artifact(artifact)
    finally:
        path.write_bytes(content)


def test_it_holds_no_path_user_or_source_line(artifact: Path) -> None:
    here = str(Path(__file__).parents[3])
    private = [here, str(Path.home()), "site-packages", ".py\\", 'File "', f"/{getpass.getuser()}/"]
    with zipfile.ZipFile(artifact / "model.pt2") as archive:
        for name in archive.namelist():
            content = archive.read(name)
            assert not [text for text in private if text.encode() in content], name


def test_the_server_cannot_be_told_to_unpickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVSCOPE_ENGINE", "pt2")
    with pytest.raises(SettingsError, match="CONVSCOPE_ENGINE"):
        read_settings()


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"no archive")
    with pytest.raises(EngineError, match=r"torch cannot open .*model\.pt2"):
        Pt2Engine(tmp_path / "model.pt2", device="cpu")


def test_a_network_that_branches_on_its_data_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    class Branching(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :10] if float(x.sum()) > 0 else x.flatten(1)[:, 10:20]

    broken = Checkpoint(load_checkpoint(checkpoint).config, Branching())
    with pytest.raises(ValueError, match=r"torch.export cannot export the network"):
        write_pt2(broken, np.zeros((2, 8, 8, 3), np.uint8), tmp_path / "model.pt2")
    assert not (tmp_path / "model.pt2").exists()
