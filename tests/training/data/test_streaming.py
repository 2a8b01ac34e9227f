"""Images decoded in every epoch are those in memory; damaged files are named, or left out and counted."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from models.checkpoint.directory import load_checkpoint
from models.errors import UserError
from models.networks.registry import build_network
from tests.training.tiny_runs import same
from training.data import streaming
from training.data.datasets import load_dataset
from training.data.options import DataOptions, SourceOptions
from training.data.splits import Splits, prepare_splits
from training.data.streaming import StreamingDataset, sequential_batches
from training.events import Event, RunStarted, ignore_events
from training.loop.fit import FitResult, fit
from training.loop.resume import fork_rng
from training.recipes.recipe import Recipe
from training.run.plan import TrainingRequest
from training.run.train import train_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, level in (("dark", 0), ("light", 128)):
        (root / name).mkdir()
        for i in range(30):
            height, width = rng.integers(20, 40, 2)
            pixels = rng.integers(level, level + 128, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02}.{'jpg' if i % 2 else 'png'}")
    return root


def splits(root: Path, *, limit: int, workers: int = 2) -> Splits:
    raw = load_dataset(str(root))
    spec, data = prepare_splits(
        raw, size=(28, 28), fraction=0.2, seed=0, options=SourceOptions(memory_limit_mb=limit, workers=workers)
    )
    assert spec == prepare_splits(raw, size=(28, 28), fraction=0.2, seed=0)[0]
    return data


def spoil(root: Path, *names: str) -> None:
    for name in names:
        (root / name).write_bytes((root / name).read_bytes()[:300])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_in_memory_in_every_epoch(workers: int, folder: Path) -> None:
    memory, streamed = splits(folder, limit=4096), splits(folder, limit=0, workers=workers)
    assert not memory.streamed and streamed.streamed
    for part in ("train", "validation", "test"):
        ours, theirs = getattr(streamed, part), getattr(memory, part)
        assert isinstance(ours, StreamingDataset) and len(ours) == len(theirs)
        for seed in range(3):
            order = torch.randperm(len(ours), generator=torch.Generator().manual_seed(seed)).tensor_split(5)
            pairs = list(zip(ours.batches(order), theirs.batches(order), strict=True))
            assert len(pairs) == 5
            assert all(torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in pairs)


def test_training_from_files_gives_the_weights_of_training_from_memory(folder: Path, tmp_path: Path) -> None:
    raw, recipe = load_dataset(str(folder)), Recipe(epochs=2, batch_size=10, flip=True, device="cpu")

    def trained(limit: int) -> FitResult:
        spec, data = prepare_splits(
            raw, size=(28, 28), fraction=0.2, seed=0, options=SourceOptions(memory_limit_mb=limit, workers=1)
        )
        with fork_rng(0, torch.device("cpu")):
            network: nn.Module = build_network("lenet", channels=3, height=28, width=28, classes=2)
        return fit(network, data, recipe, tmp_path, ignore_events, spec=spec)

    assert same(trained(4096), trained(0))


def test_a_whole_run_from_files_says_so(folder: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    overrides = {"epochs": 2}
    path = train_checkpoint(
        TrainingRequest(
            "lenet", str(folder), data_options=DataOptions(memory_limit_mb=0, workers=1), overrides=overrides
        ),
        out=tmp_path / "x",
        report=events.append,
    )
    assert isinstance(events[0], RunStarted) and events[0].streamed
    memory = train_checkpoint(TrainingRequest("lenet", str(folder), overrides=overrides), out=tmp_path / "y")
    assert load_checkpoint(path).config.metrics == load_checkpoint(memory).config.metrics


def test_arrays_are_never_streamed() -> None:
    _, data = prepare_splits(
        load_dataset("digits"), size=(28, 28), fraction=0.1, seed=0, options=SourceOptions(memory_limit_mb=0)
    )
    assert not data.streamed


def copy_of(folder: Path, to: Path) -> Path:
    for path in folder.rglob("*.*"):
        (to / path.parent.name).mkdir(exist_ok=True, parents=True)
        (to / path.parent.name / path.name).write_bytes(path.read_bytes())
    return to


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_named_by_the_process_that_trains(workers: int, folder: Path, tmp_path: Path) -> None:
    root = copy_of(folder, tmp_path / "photos")
    raw = load_dataset(str(root))
    spoil(root, "dark/07.jpg", "light/11.jpg")
    with pytest.raises(ValueError, match=r"^\S+/(dark/07|light/11).jpg: the [^\n]*(truncated|damaged)[^\n]*$"):
        _, data = prepare_splits(
            raw, size=(28, 28), fraction=0.2, seed=0, options=SourceOptions(memory_limit_mb=0, workers=workers)
        )
        for source in (data.train, data.validation, data.test):
            source.in_memory()


def test_damaged_files_are_left_out_counted_and_named(folder: Path, tmp_path: Path) -> None:
    root = copy_of(folder, tmp_path / "photos")
    spoil(root, "dark/07.jpg", "light/11.jpg")
    (root / "dark/08.png").write_bytes(b"hello")
    raw = load_dataset(str(root), DataOptions(skip_bad=True))
    assert tuple(raw.skipped_files) == ("dark/07.jpg", "dark/08.png", "light/11.jpg") and sum(raw.counts.values()) == 57
    events: list[Event] = []
    overrides = {"epochs": 1}
    out = train_checkpoint(
        TrainingRequest("lenet", str(root), data_options=DataOptions(skip_bad=True), overrides=overrides),
        out=tmp_path / "x",
        report=events.append,
    )
    assert isinstance(events[0], RunStarted) and events[0].left_out == 3
    config = json.loads((out / "config.json").read_text())
    assert config["dataset"]["left_out"] == {"count": 3, "first": list(raw.skipped_files)}
    with pytest.raises(ValueError, match=r"(07|11).jpg|08.png"):
        train_checkpoint(TrainingRequest("lenet", str(root), overrides=overrides), out=tmp_path / "y")


def test_a_class_of_damaged_files_alone_is_an_error(folder: Path, tmp_path: Path) -> None:
    root = copy_of(folder, tmp_path / "photos")
    for path in (root / "dark").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"class folder .*/dark has damaged images only, for example .*/dark/00.png"):
        load_dataset(str(root), DataOptions(skip_bad=True))


def test_shared_memory_that_is_too_small_is_refused_before_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = splits(folder, limit=0).train.to(torch.device("cpu"))  # with workers of its own
    with monkeypatch.context() as small:
        small.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=20_000))
        message = r"/dev/shm has 0\.0 MB free, but 2 workers decode up to 0\.1 MB .*--shm-size.*--workers 0"
        with pytest.raises(UserError, match=message):
            list(train.batches(sequential_batches(len(train), 4)))
    assert len(list(train.batches(sequential_batches(len(train), 4)))) == 9


def test_shared_memory_that_becomes_full_is_an_error_and_no_hang(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory: No space left on device (28)")

    train = splits(folder, limit=0).train.to(torch.device("cpu"))  # with workers of its own
    with monkeypatch.context() as patched:  # the workers are forked
        patched.setattr(torch.Tensor, "share_memory_", full)
        with pytest.raises(UserError, match=r"does not fit in shared memory \(unable .*--shm-size"):
            list(train.batches(sequential_batches(len(train), 4)))


def test_a_worker_that_is_killed_is_an_error_and_no_hang(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = splits(folder, limit=0).train.to(torch.device("cpu"))  # with workers of its own
    with monkeypatch.context() as patched:
        patched.setattr(streaming._Files, "__getitem__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        with pytest.raises(UserError, match=r"a worker process that decodes images died.*--workers 0"):
            list(train.batches(sequential_batches(len(train), 4)))


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="needs the right to mount",
)
@pytest.mark.parametrize(
    ("size", "before", "message"),
    [
        ("20k", "", "/dev/shm has 0.0 MB free, but 2 workers decode"),
        (
            "100k",
            "from training.data import streaming; streaming._SHARED_MEMORY /= 'nowhere'; ",
            "does not fit in shared memory",
        ),
    ],
)
def test_the_command_ends_with_one_line_on_a_small_shared_memory(
    folder: Path, tmp_path: Path, size: str, before: str, message: str
) -> None:
    train = "'train', 'lenet', '--memory-limit-mb', '0', '--workers', '2', '--epochs', '1'"
    code = f"{before}import convscope; convscope.main([{train}, '--data', '{folder}', '--out', '{tmp_path / 'run'}'])"
    mounted = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    words = ["unshare", "-m", "sh", "-c", mounted, "sh", sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("convscope: ") and message in line
