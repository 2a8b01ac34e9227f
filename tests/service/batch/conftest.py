"""A folder of digits in class folders, and what an artifact says of each of them, image by image."""

import io
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from export.predictor import Predictor

COUNT = 180
BATCH = [sys.executable, "-m", "convscope", "batch"]
Rows = dict[str, dict[str, Any]]


def write_digits(folder: Path, count: int = COUNT) -> Path:
    """PNG files of scikit-learn's digits, in a folder for each class."""
    digits = load_digits()
    for number in range(count):
        place = folder / str(digits.target[number])
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.kron(np.round(digits.images[number] * (255 / 16)).astype(np.uint8), np.ones((4, 5), np.uint8))
        Image.fromarray(pixels).save(place / f"{number:04}.png")
    return folder


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder, to which no test may write: it is the source of all."""
    folder = write_digits(tmp_path_factory.mktemp("digits") / "images")
    before = sorted(folder.rglob("*"))
    yield folder
    assert sorted(folder.rglob("*")) == before


@pytest.fixture(scope="session")
def files(digits_folder: Path) -> list[Path]:
    return sorted(digits_folder.rglob("*.png"))


@pytest.fixture(scope="session")
def expected(digits_folder: Path, files: list[Path], lenet_artifact: Path) -> dict[str, list[tuple[str, float]]]:
    """Labels and probabilities by key, each image by itself."""
    model = Predictor.open(lenet_artifact)
    found = {}
    for path in files:
        (result,) = model.classify([path], top_k=3)
        found[path.relative_to(digits_folder).as_posix()] = [(one.label, one.probability) for one in result.predictions]
    return found


def read_rows(out: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet output, in the order of its part files."""
    return list(pyarrow.dataset.dataset(out, format="parquet").to_table().to_pylist())


def by_key(rows: list[dict[str, Any]]) -> Rows:
    """Rows by key, of which there is one each."""
    found = {row["key"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def write_tar(path: Path, files: list[Path], root: Path, mode: str = "w") -> Path:
    """A tar file of images, as WebDataset orders them."""
    with tarfile.open(path, mode) as archive:
        for file in files:
            archive.add(file, file.relative_to(root).as_posix())
    return path


def add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Adds a file to a tar file."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def write_parquet(path: Path, files: list[Path], root: Path, **options: Any) -> Path:
    """Hugging Face's layout: a struct of bytes and path, and a label that counts the classes."""
    images = [{"bytes": file.read_bytes(), "path": file.relative_to(root).as_posix()} for file in files]
    labels = [int(file.parent.name) for file in files]
    pq.write_table(pa.table({"image": images, "label": labels}), path, **options)
    return path


def decoding_processes(pid: int) -> list[psutil.Process]:
    """The processes that decode for a job."""
    found = []
    with suppress(psutil.NoSuchProcess):  # the job has ended, or a process of it
        for child in psutil.Process(pid).children():
            found += [child] if "spawn_main" in " ".join(child.cmdline()) else []
    return found


Batch = Callable[..., Any]


@pytest.fixture
def batch(run: Callable[..., Any], lenet_artifact: Path, tmp_path: Path) -> Batch:
    """Runs `convscope batch` with an artifact, to `tmp_path/rows.parquet` by default."""

    def call(source: object, *words: object, out: Path | None = None) -> Any:
        return run("batch", source, "--artifact", lenet_artifact, "--out", out or tmp_path / "rows.parquet", *words)

    return call
