"""The data sets by name, and folders of images by path."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from training.data.builtin import load_digits, load_stripes
from training.data.folder import load_folder
from training.data.raw import RawDataset
from training.data.torchvision import TORCHVISION_SETS, load_torchvision

__all__ = ["DATASETS", "RawDataset", "check_dataset", "data_directories", "load_dataset"]

DATASETS = ("digits", "stripes", *TORCHVISION_SETS)


def data_directories(data_dir: Path | None) -> tuple[Path, ...]:
    """Where data files are looked for: `data_dir`, then $CONVSCOPE_DATA_DIR, then ./data. Reads the environment."""
    variable = os.environ.get("CONVSCOPE_DATA_DIR")
    return tuple(Path(place) for place in (data_dir, variable, "data") if place)


def check_dataset(name: str) -> None:
    """Nothing if it is one of `DATASETS` or an existing folder.

    Raises:
        ValueError: it is neither; the message lists the nearest names.
    """
    if name in DATASETS or Path(name).is_dir():
        return
    if "/" in name or os.sep in name:
        raise ValueError(f"the folder {name} does not exist")
    near = difflib.get_close_matches(name, DATASETS, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(DATASETS)}"
    raise ValueError(f"no data set is called {name!r}, and no folder either; {hint}")


def load_dataset(
    name: str,
    *,
    data_dir: Path | Sequence[Path] | None = None,
    download: bool = False,
    skip_bad: bool = False,
    test_only: bool = False,
) -> RawDataset:
    """Loads a data set by name, or a folder of class folders by its path.

    Args:
        name: one of `DATASETS`, or a path.
        data_dir: where torchvision's files are looked for: one folder, or several in their order (`data_directories`);
            ./data if left out.
        download: fetch what is in no place into the first one.
        skip_bad: leave damaged files of a folder out.
        test_only: take a folder without training images too, see `load_folder`.

    Raises:
        ValueError: no such data set, or its files are absent or damaged; the message names the places.
    """
    check_dataset(name)
    if name in TORCHVISION_SETS:
        places = (data_dir,) if isinstance(data_dir, Path) else tuple(data_dir or (Path("data"),))
        return load_torchvision(name, places, download=download)
    if name == "digits":
        return load_digits()
    return load_stripes() if name == "stripes" else load_folder(Path(name), skip_bad=skip_bad, test_only=test_only)
