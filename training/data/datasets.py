"""Data sets by name, and folders of images by path."""

import difflib
import os
from pathlib import Path

from models.errors import UserError
from training.data.builtin import load_digits, load_stripes
from training.data.folder import load_folder
from training.data.options import DATA_DEFAULTS, DataOptions
from training.data.raw import RawDataset
from training.data.torchvision import TORCHVISION_SETS, load_torchvision

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
DATASETS = ("digits", "stripes", *TORCHVISION_SETS)


def check_dataset(name: str) -> None:
    """Raises ValueError with the nearest names unless `name` is one of `DATASETS` or an existing folder."""
    if name in DATASETS or Path(name).is_dir():
        return
    if Path(name).is_file():
        kind = "an archive; unpack it, and give" if name.lower().endswith(_ARCHIVES) else "a file; give"
        raise UserError(f"{name} is {kind} a folder with a folder of images per class (<class>/<image>)")
    if "/" in name or os.sep in name:
        raise UserError(f"the folder {name} does not exist")
    near = difflib.get_close_matches(name, DATASETS, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(DATASETS)}"
    raise UserError(f"no data set is called {name!r}, and no folder either; {hint}")


def load_dataset(name: str, options: DataOptions = DATA_DEFAULTS, *, test_only: bool = False) -> RawDataset:
    """Loads one of `DATASETS` by name, or a folder of class folders by its path.

    Args:
        test_only: accept a folder without training images, see `load_folder`.

    Raises:
        ValueError: no such data set, or its files are missing or damaged; the message names the folders.
    """
    check_dataset(name)
    if name in TORCHVISION_SETS:
        return load_torchvision(name, options.directories, download=options.download)
    if name == "digits":
        return load_digits()
    if name == "stripes":
        return load_stripes()
    return load_folder(
        Path(name), skip_bad=options.skip_bad, test_only=test_only, limit_pixels=options.image_limit_pixels
    )
