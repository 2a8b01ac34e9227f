"""MNIST, FashionMNIST and CIFAR-10 from the files that torchvision reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.raw import RawDataset, RawSplit, arrays_hash

# data set: (torchvision's class, the folder its files are in, below the place that is searched)
TORCHVISION_SETS = {
    "mnist": ("MNIST", "MNIST/raw"),
    "fashion-mnist": ("FashionMNIST", "FashionMNIST/raw"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
}


def load_torchvision(name: str, places: Sequence[Path], *, download: bool) -> RawDataset:
    """Reads one of `TORCHVISION_SETS` from the first place that has it.

    Raises:
        ValueError: no place has all its files, or one is damaged.
    """
    from torchvision import datasets  # slow to import

    kind, folder = getattr(datasets, TORCHVISION_SETS[name][0]), TORCHVISION_SETS[name][1]
    found = (_read(kind, place, folder) for place in places if (place / folder).is_dir())
    parts = next((both for both in found if both is not None), None)
    if parts is None and download:
        parts = _read(kind, places[0], folder, download=True)
    if parts is None:
        looked = ", ".join(str(place / folder) for place in places)
        raise ValueError(
            f"the files of {name} were looked for in {looked} and are not there; give the folder above {folder} with "
            "--data-dir or CONVSCOPE_DATA_DIR, or fetch them with --download"
        )
    train, test = (RawSplit(np.asarray(p.data), np.asarray(p.targets, dtype=np.int64)) for p in parts)
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


def _read(kind: Any, place: Path, folder: str, *, download: bool = False) -> tuple[Any, Any] | None:
    """torchvision's training and test set, or None if a file is absent there."""
    try:
        return kind(place, train=True, download=download), kind(place, train=False)
    except OSError:  # unreadable, or no network: says so itself
        raise
    except RuntimeError as error:  # torchvision's word for absent and, after a download, for damaged
        if download:
            raise ValueError(f"{place / folder}: {error}") from None
        return None
    except Exception as error:  # its readers raise what they stumble over: AssertionError, UnpicklingError, ...
        raise ValueError(f"{place / folder}: a file is damaged ({type(error).__name__}: {error})") from error
