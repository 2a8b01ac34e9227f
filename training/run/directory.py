"""The directory of a run: never one with another run, except to overwrite or resume it."""

import re
from collections.abc import Iterator
from pathlib import Path

from models.checkpoint.names import CONFIG_FILE, RESUME_FILE
from models.errors import UserError
from models.files import check_writable
from training.data.datasets import DATASETS

RUNS = Path("runs")
ODD = re.compile(r"[^\w.-]+", re.ASCII)  # what an artifact's name, and some file systems, do not take
UNUSED_FILE = "unused-files.tsv"  # of a folder: names and reasons


def new_run_directory(out: Path | None, *, model: str, dataset: str, overwrite: bool = False) -> Path:
    """The directory for a new run: `out`, or `runs/<model>-<dataset>`, with -2, -3... if another run is there.

    Raises:
        ValueError: `out` holds a run, finished or not, and `overwrite` is false; or it is not a directory.
        UnwritableError: the directory cannot be written.
    """
    if out is None:
        out = next(path for path in _names(model, dataset) if overwrite or not (_finished(path) or _unfinished(path)))
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out takes a directory")
    if not overwrite and _finished(out):
        raise UserError(f"{out} holds a finished checkpoint; --overwrite replaces it")
    if not overwrite and _unfinished(out):
        raise UserError(f"{out} holds an unfinished run; continue it with --resume, or replace it with --overwrite")
    check_writable(out)
    return out


def resumable_run_directory(out: Path | None, *, model: str, dataset: str, overwrite: bool = False) -> Path:
    """The directory of the run to continue: `out`, or the last default name that holds an unfinished run.

    Raises:
        ValueError: there is no unfinished run, or `overwrite` is also given.
        UnwritableError: the directory cannot be written.
    """
    if overwrite:
        raise UserError("--resume continues a run and --overwrite replaces it; give one of them")
    if out is None:
        there = []
        for path in _names(model, dataset):
            if not path.exists():
                break
            there.append(path)
        unfinished = [path for path in there if _unfinished(path)]
        if not unfinished:
            first = next(_names(model, dataset))
            raise UserError(f"nothing to resume: no unfinished run in {first} or its successors; --out names another")
        out = unfinished[-1]
    if not _unfinished(out):
        why = f"{out} holds a finished checkpoint" if _finished(out) else f"{out / RESUME_FILE} does not exist"
        raise UserError(f"nothing to resume: {why}")
    check_writable(out)
    return out


def _names(model: str, dataset: str) -> Iterator[Path]:
    name = dataset if dataset in DATASETS else Path(dataset).resolve().name
    base = RUNS / ODD.sub("-", f"{model}-{name}")
    yield base
    number = 2
    while True:
        yield base.with_name(f"{base.name}-{number}")
        number += 1


def _finished(path: Path) -> bool:
    return (path / CONFIG_FILE).is_file()


def _unfinished(path: Path) -> bool:
    return (path / RESUME_FILE).is_file()  # possibly beside a finished one that it will replace
