"""Places that cannot be written are named before anything is done; a full disk costs an epoch at most."""

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from convscope import main
from export.artifact.manifest import check_name
from models.checkpoint.directory import load_checkpoint
from models.files import UnwritableError, check_writable
from tests.conftest import Outcome
from training.cli.progress import TrainingProgress
from training.data.datasets import load_dataset
from training.data.options import DataOptions
from training.events import EpochFinished, Event, RunFinished
from training.run.directory import new_run_directory
from training.run.plan import TrainingRequest
from training.run.train import train_checkpoint

pytestmark = pytest.mark.usefixtures("own_directory")
FULL = Path("/dev/full")
SETTINGS = {"epochs": 3, "device": "cpu"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.run.train.write_pictures", lambda *of_the_run: None)
        return weights(train_checkpoint(TrainingRequest("lenet", "digits", overrides=SETTINGS), out=out))


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(out).network.state_dict()


def resumed(out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """The weights that the run ends with; its pictures would only take time."""
    monkeypatch.setattr("training.run.train.write_pictures", lambda *of_the_run: None)
    return weights(train_checkpoint(TrainingRequest("lenet", "digits"), out=out, resume=True))


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def half_files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".") or path.suffix == ".tmp"]


@pytest.mark.parametrize(("out", "reason"), [("/proc/x", "in /proc"), ("file/x", "in file (Not a directory)")])
def test_a_directory_that_cannot_be_written_is_named_before_data_are_loaded(
    out: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.run.plan.load_dataset", lambda *words, **more: pytest.fail("data were loaded"))
    Path("file").touch()
    with pytest.raises(SystemExit, match="1"):
        main(["train", "lenet", "--data", "digits", "--out", out])
    told = capsys.readouterr()
    assert told.err.startswith(f"convscope: the directory {out} cannot be written: no file can be made {reason}")
    assert told.err.count("\n") == 1 and told.out == "" and os.listdir() == ["file"]


def test_a_directory_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "a/b", Path("c"), Path()):
        check_writable(directory)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", [Path("/proc/x"), Path("file")])
def test_nothing_is_fetched_to_a_place_that_cannot_be_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", lambda self: pytest.fail("it was fetched"))
    Path("file").touch()
    with pytest.raises(UnwritableError, match=f"^the directory {place} cannot be written: .*; give another$"):
        load_dataset("cifar10", DataOptions(data_dir=place, download=True))


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("Tried it:\nNo space left on device")]
)
def test_a_disk_that_fills_up_while_data_are_fetched_is_named(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(self: object) -> None:
        raise error

    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", download)
    with pytest.raises(ValueError, match=r"^[^\n]*-batches-py could not be fetched: [^\n]*No space left on device$"):
        load_dataset("cifar10", DataOptions(data_dir=tmp_path, download=True))


@pytest.mark.parametrize(
    ("epoch", "limit_bytes", "file"), [(1, 600_000, "resume.pt"), (3, 200_000, "model.safetensors")]
)
def test_a_run_stopped_by_a_write_that_failed_resumes_to_the_same_bits(
    epoch: int,
    limit_bytes: int,
    file: str,
    tmp_path: Path,
    whole: dict[str, torch.Tensor],
    run: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    show, (before, hard) = TrainingProgress.__call__, resource.getrlimit(resource.RLIMIT_FSIZE)

    def show_and_limit(progress: TrainingProgress, event: Event) -> None:
        show(progress, event)
        if isinstance(event, EpochFinished) and event.epoch == epoch:  # from here a longer file fails as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))

    monkeypatch.setattr(TrainingProgress, "__call__", show_and_limit)
    try:
        done = run("train", "lenet", "--data", "digits", "--out", "run", "--epochs", 3, "--device", "cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    kept = f"resume.pt is as it was after epoch {epoch}, and --resume continues from there"
    assert done.err == f"convscope: run/{file} cannot be written: File too large; {kept}\n"
    assert done.status == 1
    assert half_files(tmp_path / "run") == [] and not (tmp_path / "run" / "config.json").exists()
    assert equal(resumed(tmp_path / "run", monkeypatch), whole)


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    ("file", "epoch", "kept"),
    [
        ("resume.pt", 1, 1),
        pytest.param("resume.pt", 2, 2, marks=pytest.mark.acceptance),
        ("log.jsonl", 1, 2),
        ("samples.npz", 3, 3),
        ("config.json", 3, 3),
    ],
)
def test_a_full_disk_stops_the_run_and_what_is_kept_is_told(
    file: str, epoch: int, kept: int, tmp_path: Path, whole: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def fill(event: Event) -> None:
        if (
            isinstance(event, EpochFinished) and event.epoch == epoch
        ):  # where the file is written before it gets its name
            (out / f".{file}.{os.getpid()}.tmp").symlink_to(FULL)

    wanted = f"{file} cannot be written: No space left on device; resume.pt is as it was after epoch {kept}, and"
    with pytest.raises(UnwritableError, match=wanted):
        train_checkpoint(TrainingRequest("lenet", "digits", overrides=SETTINGS), out=out, report=fill)
    assert half_files(out) == []
    assert equal(resumed(out, monkeypatch), whole)


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
def test_a_disk_that_is_full_for_pictures_loses_only_them(tmp_path: Path) -> None:
    told: list[Event] = []

    def fill(event: Event) -> None:
        told.append(event)
        if isinstance(event, EpochFinished):
            (tmp_path / f"run/.confusion.png.{os.getpid()}.tmp").unlink(missing_ok=True)
            (tmp_path / f"run/.confusion.png.{os.getpid()}.tmp").symlink_to(FULL)

    train_checkpoint(TrainingRequest("lenet", "digits", overrides=SETTINGS), out=tmp_path / "run", report=fill)
    assert isinstance(told[-1], RunFinished)
    assert "confusion.png cannot be written: No space left on device" in told[-1].missing_pictures
    assert half_files(tmp_path / "run") == [] and (tmp_path / "run/config.json").exists()


@pytest.mark.parametrize(
    ("model", "name"),
    [("my_networks:Net", "my_networks-Net-digits"), ("torchvision:resnet18", "torchvision-resnet18-digits")],
)
def test_a_runs_name_can_be_an_artifacts(model: str, name: str) -> None:
    found = new_run_directory(None, model=model, dataset="digits")
    assert found.name == name
    assert check_name(found.name) == name


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
def test_a_disk_that_is_full_from_the_start_promises_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / f"run/.resume.pt.{os.getpid()}.tmp").symlink_to(FULL)
    with pytest.raises(UnwritableError, match=r"run/resume\.pt cannot be written: No space left on device$"):
        train_checkpoint(TrainingRequest("lenet", "digits", overrides=SETTINGS), out=tmp_path / "run")
    assert half_files(tmp_path / "run") == []
