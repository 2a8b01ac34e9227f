"""model.ts agrees with the network, carries nothing of the machine that made it, and is frozen in evaluation mode."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.engines.protocol import EngineError
from export.engines.torch import TorchScriptEngine, quiet_torchscript
from export.writers.torchscript import write_torchscript
from models.checkpoint.directory import Checkpoint, CheckpointConfig
from models.images.input_spec import InputSpec
from tests.conftest import Exported, digit_images, make_spec

PRIVATE = (b"/work", b"site-packages", b"stack_trace", str(Path.home()).encode() + b"/", str(Path.cwd()).encode())


def test_the_archive_has_no_debug_entries(exported: Exported) -> None:
    with zipfile.ZipFile(exported.artifact / "model.ts") as archive:
        names = archive.namelist()
        assert archive.testzip() is None
    assert any(name.endswith("data.pkl") for name in names)
    assert not [name for name in names if "debug_pkl" in name]


def test_no_file_of_an_artifact_tells_where_it_was_made(exported: Exported) -> None:
    repository = str(Path(__file__).parents[3]).encode()
    for path in exported.artifact.iterdir():
        contents = [path.read_bytes()]
        if zipfile.is_zipfile(path):  # its entries may be packed
            with zipfile.ZipFile(path) as archive:
                contents += [archive.read(name) for name in archive.namelist()]
        for content in contents:
            assert not [text for text in (*PRIVATE, repository) if text in content], path.name


def test_the_archive_is_frozen_and_describes_itself(lenet_artifact: Path) -> None:
    extra = {"convscope.json": ""}
    with quiet_torchscript():
        module = torch.jit.load(str(lenet_artifact / "model.ts"), _extra_files=extra)
    assert list(module.parameters()) == []
    about = json.loads(extra["convscope.json"])
    assert about["model"] == "lenet"
    assert InputSpec.from_json(about).shape == (28, 28, 1)


def test_arrays_that_cannot_be_written_to_are_taken(lenet_artifact: Path) -> None:
    images = np.stack(digit_images(1, 2)).repeat(4, 1).repeat(4, 2)[:, :28, :28, None]
    engine = TorchScriptEngine(lenet_artifact / "model.ts", device="cpu")
    wanted = engine.run(images)[0]
    images.flags.writeable = False
    # torch optimises at the second run, which changes the last digits
    np.testing.assert_allclose(engine.run(images)[0], wanted, rtol=0, atol=1e-6)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.ts").write_bytes(b"nothing")
    with pytest.raises(EngineError, match=r"torch cannot open .*model\.ts: "):
        TorchScriptEngine(tmp_path / "model.ts", device="cpu")


class Untraceable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("first line\nsecond line")


def test_a_network_that_torch_cannot_trace_is_refused_in_one_line(tmp_path: Path) -> None:
    checkpoint = Checkpoint(CheckpointConfig(model="x", classes=("a", "b"), input=make_spec(8)), Untraceable())
    with pytest.raises(ValueError, match=r"torch.jit cannot trace the network: [^\n]*$"):
        write_torchscript(checkpoint, np.zeros((2, 8, 8, 1), np.uint8), tmp_path / "model.ts")
    assert not (tmp_path / "model.ts").exists()
