"""Two processes through torchrun: the data once an epoch, the weights of one process, one writer."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from models.checkpoint.directory import load_checkpoint
from tests.real_server import free_port
from training.loop.process_group import SINGLE_PROCESS, ProcessGroup, process_group
from training.loop.resume import fork_rng
from training.run.plan import TrainingRequest
from training.run.train import train_checkpoint

ROOT = Path(__file__).parents[3]

# State of every kind that a resumed run must bring back, and parameters that never get a gradient. DIES_AT is a step.
MORTAL = """
import os
import signal

import torch
from torch import nn


class Mortal(nn.Module):
    def __init__(self, *, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        self.idle = nn.Linear(3, 3)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3)
        )
        self.last = nn.Linear(4 * (height - 2) * (width - 2), classes)
        self.steps = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += self.training and torch.is_grad_enabled()  # not when it is only tried
        if self.training and str(self.steps) == os.environ.get("DIES_AT"):
            os.kill(os.getpid(), signal.SIGKILL)
        return self.last(self.layers(x))
"""
# `convscope train` by two processes with torchrun's variables, for each of RUNS, into RUN.txt; prints their statuses.
# They are forks of one that has imported everything, which takes longer than a run; torchrun would start them anew.
FORKS = """
import json
import os
import runpy
import sys

import sklearn.datasets
import training.cli.train
import training.run.train

training.run.train.write_pictures = lambda *of_the_run: None
sys.path.insert(0, os.getcwd())
for port, name, variables, words in json.loads(sys.argv[1]):
    forks = []
    for rank in "01":
        if (fork := os.fork()) == 0:
            os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": name}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **variables}
            log = os.open(f"{name}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.argv[1:] = words
            runpy.run_module("training", run_name="__main__")  # ends with SystemExit
        forks.append(fork)
    print([os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]) for fork in forks])
"""
WORDS = ["mortal:Mortal", "--data", "digits", "--device", "cpu"]
SETTINGS = ["--epochs", "3", "--batch-size", "50", "--shift", "1", "--ema", "0.9", "--freeze-epochs", "1"]
STEPS = 26  # an epoch: 1294 images


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_disjoint_and_everything(size: int) -> None:
    shares = [ProcessGroup(rank, size).shard(torch.arange(20)) for rank in range(size)]
    assert torch.cat(shares).tolist() == list(range(20))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with process_group(cuda=False) as group:
        assert (
            group is SINGLE_PROCESS
            and group.is_main
            and group.gather(3) == [3]
            and group.broadcast_from_main(lambda: 4) == 4
        )
        assert group.sum(torch.ones(2)).tolist() == [1, 1]
        assert group.data_parallel(network := torch.nn.Linear(1, 1)) is network


def torchrun(*words: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("torchrun"), "--nproc-per-node", "2", "--master-port", "0"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "training", *words]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize(
    ("more", "tolerance"),
    [
        ({"ema": 0.9}, 1e-4),
        # Muon orthogonalises in bf16. Behind the kernels adamw makes up to 0.04 of that, where a gradient is about 0.
        pytest.param({"optimizer": "muon", "channels_last": True}, 5e-3, marks=pytest.mark.acceptance),
    ],
)
def test_two_processes_train_as_one_does(more: dict[str, Any], tolerance: float, tmp_path: Path) -> None:
    # What is drawn at random differs between the processes, and bf16 would round their gradients before adding them.
    settings = {"epochs": 2, "batch_size": 50, "shift": 0, "precision": "fp32", "device": "cpu", **more}
    words = [
        word
        for key, value in settings.items()
        for word in (f"--{key.replace('_', '-')}", *(() if value is True else (str(value),)))
    ]
    done = torchrun("lenet", "--data", "digits", "--out", "both", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2/2") == 1 and done.stdout.count("checkpoint: both") == 1
    assert "2 processes train together" in done.stdout
    both = load_checkpoint(tmp_path / "both")
    alone = load_checkpoint(
        train_checkpoint(TrainingRequest("lenet", "digits", overrides=settings), out=tmp_path / "one")
    )
    for name, weights in alone.network.state_dict().items():
        if "optimizer" not in more or name.startswith("conv"):
            assert torch.allclose(both.network.state_dict()[name], weights, atol=tolerance), name
    logs = [
        [json.loads(line) for line in (tmp_path / x / "log.jsonl").read_text().splitlines()] for x in ("both", "one")
    ]
    one_image = 1.01 / 144 if "optimizer" in more else 0.0  # of the validation split, that bf16 may turn
    for ours, theirs in zip(*logs, strict=True):
        for key, allowed in {
            "train_loss": tolerance,
            "train_accuracy": tolerance,
            "validation_loss": tolerance,
            "validation_accuracy": max(tolerance, one_image),
        }.items():
            assert ours[key] == pytest.approx(theirs[key], abs=allowed), key
    assert not list((tmp_path / "both").glob("*.tmp")) and not (tmp_path / "both/resume.pt").exists()


@pytest.fixture(scope="module")
def mortals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the network, the run `whole`, which two processes did in one go, and `parts`, where they died."""
    folder = tmp_path_factory.mktemp("mortals")
    (folder / "mortal.py").write_text(MORTAL)
    runs: list[tuple[int, str, dict[str, str], list[str]]] = [
        (free_port(), "whole", {}, [*WORDS, *SETTINGS, "--out", "whole"]),
        (free_port(), "killed", {"DIES_AT": str(STEPS + 2)}, [*WORDS, *SETTINGS, "--out", "parts"]),
        (free_port(), "resumed", {}, [*WORDS, "--out", "parts", "--resume"]),
    ]
    command = [sys.executable, "-c", FORKS, json.dumps(runs)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=240)
    told = "\n".join(path.read_text() for path in folder.glob("*.txt"))
    assert done.stdout.split("\n") == ["[0, 0]", "[-9, -9]", "[0, 0]", ""], done.stderr + told
    return folder


def test_parameters_without_a_gradient_do_not_hinder_two_processes(
    mortals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mortals)
    trained = load_checkpoint(mortals / "whole")
    with fork_rng(0, torch.device("cpu")):
        start = trained.config.build_network().state_dict()
    same = {name for name, tensor in trained.network.state_dict().items() if torch.equal(tensor, start[name])}
    assert same == {"idle.weight", "idle.bias"}
    assert trained.config.metrics["test"]["accuracy"] > 0.5


def test_two_processes_that_are_killed_resume_to_the_same_bits(mortals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mortals)
    killed, resumed = ((mortals / f"{name}.txt").read_text() for name in ("killed", "resumed"))
    assert "epoch 1/3" in killed and "epoch 2/3" not in killed
    assert "continuing with epoch 2 of 3" in resumed
    whole, parts = (load_checkpoint(mortals / name) for name in ("whole", "parts"))
    assert parts.config.metrics == whole.config.metrics
    for name, weights in whole.network.state_dict().items():
        assert torch.equal(parts.network.state_dict()[name], weights), name


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_the_writer_is_raised_in_every_process(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made, told = [], [None, "no room"]

    def broadcast(outcome: list[Any], src: int) -> None:
        outcome[:] = outcome if rank == src else told

    def make() -> None:
        made.append(rank)
        raise ValueError("no room")

    monkeypatch.setattr("training.loop.process_group.distributed.broadcast_object_list", broadcast)
    with pytest.raises(ValueError, match="no room"):
        ProcessGroup(rank, 2).broadcast_from_main(make)
    assert made == [0] * (rank == 0)
