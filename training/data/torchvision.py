"""MNIST, FashionMNIST and CIFAR-10 from torchvision's files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import UserError
from models.files import check_writable
from models.proxies import describe_proxy
from training.data.raw import LabeledImages, RawDataset, arrays_hash

# data set: (torchvision's class, its folder below the searched directory)
TORCHVISION_SETS = {
    "mnist": ("MNIST", "MNIST/raw"),
    "fashion-mnist": ("FashionMNIST", "FashionMNIST/raw"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
}


def load_torchvision(name: str, places: Sequence[Path], *, download: bool) -> RawDataset:
    """Reads one of `TORCHVISION_SETS` from the first folder that contains it; downloads go to the first folder.

    Raises:
        ValueError: no folder has all its files, one is damaged, or they cannot be downloaded.
        UnwritableError: the first folder cannot be written.
    """
    from torchvision import datasets  # slow to import

    kind, folder = getattr(datasets, TORCHVISION_SETS[name][0]), TORCHVISION_SETS[name][1]
    found = (_read(kind, place, folder) for place in places if (place / folder).is_dir())
    parts = next((both for both in found if both is not None), None)
    if parts is None and download:
        check_writable(places[0])
        check_writable(places[0] / folder)
        parts = _read(kind, places[0], folder, download=True)
    if parts is None:
        looked = ", ".join(str(place / folder) for place in places)
        raise UserError(
            f"the files of {name} were looked for in {looked} and are not there; give the folder above {folder} with "
            "--data-dir or CONVSCOPE_DATA_DIR, or fetch them with --download"
        )
    train, test = (_split(part, folder) for part in parts)
    images = np.asarray(train.images)
    return RawDataset(
        name=name,
        classes=tuple("0123456789") if name == "mnist" else tuple(parts[0].classes),
        train=train,
        test=test,
        mode="RGB" if images.ndim == 4 else "L",
        size=(images.shape[1], images.shape[2]),
        background=0,
        sha256=arrays_hash(train, test),
    )


def _split(part: Any, folder: str) -> LabeledImages:
    """Reads a training or test set of torchvision and checks its labels, as torchvision accepts any."""
    labels, where = np.asarray(part.targets, dtype=np.int64), Path(part.root) / folder
    bad = np.flatnonzero((labels < 0) | (labels >= len(part.classes)))
    if len(bad):
        kind, wanted = "training" if part.train else "test", f"labels are 0 to {len(part.classes) - 1}"
        raise UserError(f"{where}: the label of {kind} image {bad[0]} is {labels[bad[0]]}; {wanted}")
    try:
        return LabeledImages(np.asarray(part.data), labels)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _read(kind: Any, place: Path, folder: str, *, download: bool = False) -> tuple[Any, Any] | None:
    """torchvision's training and test set, or None if a file is missing."""
    try:
        return kind(place, train=True, download=download), kind(place, train=False)
    except (OSError, RuntimeError) as error:
        if download:  # no network, a full disk, or an unexpected file
            route = describe_proxy(next(iter(getattr(kind, "mirrors", [""])), "") or getattr(kind, "url", ""))
            raise UserError(f"{place / folder} could not be fetched: {' '.join(str(error).split())}{route}") from error
        if isinstance(error, OSError):  # unreadable, as in the message
            raise
        return None  # torchvision's exception for missing files
    except Exception as error:  # its readers raise arbitrary exceptions: AssertionError, UnpicklingError, ...
        raise UserError(f"{place / folder}: a file is damaged ({type(error).__name__}: {error})") from error
