"""Folders `models`, `training`, `export` and a file `service.py` of the user's in the working directory."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import convscope
from models.checkpoint.directory import load_checkpoint
from service.process.server import command, environment, wait_until_ready
from service.settings import read_settings
from tests.real_server import free_port, stop

CHECKOUT = Path(convscope.__file__).parent
SCRIPT = "from convscope import main\n\nif __name__ == '__main__':\n    main()\n"  # the installed command


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory in which every import of these names that finds the user's fails."""
    for name in ("models/__init__.py", "training/__init__.py", "export/__init__.py", "service.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"raise RuntimeError('{name} of the user was imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f".{os.pathsep}{CHECKOUT}")
    return tmp_path


def run(*words):
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("start", [("-m", "convscope"), ("bin/command",)])
def test_a_command_that_starts_processes_finds_our_packages(folder, lenet_artifact, start, tmp_path):
    shutil.copytree(lenet_artifact, artifact := tmp_path / "lenet")
    (folder / "bin").mkdir()
    (folder / "bin" / "command").write_text(SCRIPT)
    found = run(*start, "bench", artifact, "--batches", 1, "--seconds", 0.01, "--device", "cpu")
    assert "does not run" not in found and "fastest here" in found


@pytest.mark.acceptance
def test_training_with_several_processes_finds_our_packages(folder):
    words = ("--nproc-per-node", 2, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "convscope")
    options = ("train", "lenet", "--data", "digits", "--epochs", 1, "--device", "cpu")
    assert "2 processes train together" in run("-m", "torch.distributed.run", *words, *options)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.acceptance), 2])
def test_a_server_and_its_workers_find_our_packages(folder, lenet_artifact, workers):
    settings = read_settings(artifacts=lenet_artifact, port=free_port(), workers=workers, device="cpu")
    server = subprocess.Popen(command(settings), env=environment(settings), start_new_session=True)
    try:
        url = f"http://127.0.0.1:{settings.port}"
        wait_until_ready(url, server, timeout_s=120)
        assert httpx.get(f"{url}/v1/models").json()["models"][0]["name"] == "lenet"
    finally:
        stop(server)


def test_a_module_that_takes_our_name_before_is_named(folder):
    (folder / "models" / "__init__.py").write_text("")
    words = [sys.executable, "-c", "import models, convscope"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode and "a module 'models' was imported from" in done.stderr
    assert "import convscope before it" in done.stderr


def test_a_network_of_your_own_may_lie_in_a_folder_models(folder):
    (folder / "models" / "__init__.py").write_text("")
    (folder / "models" / "blocks.py").write_text(
        "from torch import nn\n\n\ndef block(a, b):\n    return nn.Sequential(nn.Conv2d(a, b, 3), nn.ReLU())\n"
    )
    (folder / "models" / "mine.py").write_text(
        "from torch import nn\n"
        "from models.blocks import block\n\n\n"
        "class Mine(nn.Module):\n"
        "    def __init__(self, channels, classes):\n"
        "        super().__init__()\n"
        "        self.features, self.last = block(channels, 4), nn.Linear(4, classes)\n\n"
        "    def forward(self, x):\n"
        "        return self.last(self.features(x).mean((2, 3)))\n"
    )
    run("-m", "convscope", "train", "models.mine:Mine", "--data", "digits", "--epochs", 1, "--out", "run")
    assert "features.0" in run("-m", "convscope", "summary", "run")
    checkpoint = load_checkpoint(folder / "run")  # in this process our own `models` stays
    assert type(checkpoint.network).__name__ == "Mine"
    assert Path(sys.modules["models"].__path__[0]).parent == CHECKOUT
