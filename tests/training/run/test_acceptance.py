"""Full trainings on real data; minutes each. Times are printed, not asserted."""

import json
import shutil
import tarfile
import time
from pathlib import Path

import pytest

from models.checkpoint.directory import load_checkpoint
from training.data.options import DataOptions
from training.run.plan import TrainingRequest
from training.run.train import train_checkpoint

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]


def accuracy(model: str, dataset: str, out: Path, *, data_dir: Path | None = None, **overrides: object) -> float:
    started = time.perf_counter()
    train_checkpoint(
        TrainingRequest(model, dataset, data_options=DataOptions(data_dir=data_dir), overrides=overrides), out=out
    )
    reached = load_checkpoint(out).config.metrics["test"]["accuracy"]
    print(f"{model} on {Path(dataset).name}: {reached:.2%} in {time.perf_counter() - started:.0f} s")
    return reached


@pytest.mark.parametrize(
    ("model", "dataset", "folder", "wanted"),
    [
        ("lenet", "mnist", "MNIST", 0.99),
        ("lenet1998", "mnist", "MNIST", 0.98),
        ("simple_cnn", "fashion-mnist", "FashionMNIST", 0.915),
    ],
)
def test_the_default_recipe_reaches(
    model: str, dataset: str, folder: str, wanted: float, shared_data: Path, tmp_path: Path
) -> None:
    if not (shared_data / folder / "raw").is_dir():
        pytest.skip(f"no {shared_data / folder}")
    assert accuracy(model, dataset, tmp_path, data_dir=shared_data) >= wanted


def test_resnet20_learns_a_folder_of_photographs_in_one_epoch(shared_data: Path, tmp_path: Path) -> None:
    archive = shared_data / "cifar10-jpeg.tar.gz"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    assert accuracy("resnet20", str(tmp_path / "cifar10-jpeg"), tmp_path / "run", epochs=1) > 0.4


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_torch_compile_trains_as_without_it(tmp_path: Path) -> None:
    losses = []
    for compiled in (False, True):
        out = tmp_path / f"{compiled}"
        assert accuracy("lenet", "digits", out, epochs=6, precision="fp32", compile=compiled) > 0.9
        losses.append([json.loads(line)["train_loss"] for line in (out / "log.jsonl").read_text().splitlines()])
    eager, compiled_too = losses
    assert compiled_too == pytest.approx(eager, rel=0.05) and compiled_too[0] == pytest.approx(eager[0], rel=1e-3)
