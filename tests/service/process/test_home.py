"""Servers without a home that can be written, as on container platforms with a random user."""

import os
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from models.errors import UserError
from service.process.home import HOME, writable_home
from tests.conftest import Outcome
from tests.in_process import digit, encoded
from tests.real_server import running_server


@pytest.fixture(autouse=True)
def temporary_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    (folder := tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv(HOME, raising=False)
    return folder


def test_a_home_that_can_be_written_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "new"))
    assert writable_home() == tmp_path / "new/bentoml"
    monkeypatch.setenv(HOME, str(tmp_path / "named"))
    assert writable_home() == tmp_path / "named"


def test_a_home_that_is_only_read_stays_if_it_is_complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(HOME, str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert writable_home() != tmp_path
    for name in ("bentos", "models", "envs", "tmp"):
        (tmp_path / name).mkdir()
    assert writable_home() == tmp_path


@pytest.mark.parametrize("home", ["/dev/null/home", "relative"])
def test_without_a_home_a_temporary_one_is_used(
    monkeypatch: pytest.MonkeyPatch, temporary_files: Path, home: str
) -> None:
    monkeypatch.setenv("HOME", home)
    assert writable_home().parent == temporary_files


def test_a_server_without_a_home_answers_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, temporary_files: Path, tmp_path: Path, lenet_artifact: Path
) -> None:
    monkeypatch.setenv("HOME", "/dev/null/home")
    with running_server(lenet_artifact, tmp_path / "log") as server:
        assert any(path.name.startswith("convscope-bentoml-") for path in temporary_files.iterdir())
        assert httpx.post(f"{server.url}/v1/classify", content=encoded(digit())).status_code == 200
    assert not [path for path in temporary_files.iterdir() if path.name.startswith("convscope-")]


def test_without_any_folder_the_server_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, lenet_artifact: Path, run: Callable[..., Outcome]
) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    with pytest.raises(UserError, match="TMPDIR"):
        writable_home()
    done = run("serve", lenet_artifact)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("convscope: no folder for temporary files can be written") and done.err.count("\n") == 1
