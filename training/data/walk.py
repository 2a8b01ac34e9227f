"""The image files below a folder, and what is passed over there."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from models.errors import UserError
from models.files import printable
from models.images.header import SUFFIXES

# Made by NAS devices, archives of macOS and file systems; they hold thumbnails, deleted files and the like.
SYSTEM_FOLDERS = frozenset(
    ("@eadir", "__macosx", "$recycle.bin", "#recycle", "#snapshot", "lost+found", "system volume information")
)


def is_hidden(name: str) -> bool:
    """True for the names of files and folders that are never looked at."""
    return name.startswith(".")


def subfolders(folder: Path) -> list[Path]:
    """The folders in it, sorted, without hidden ones and those of systems.

    Raises:
        UserError: it cannot be read.
    """
    try:
        found = (path for path in folder.iterdir() if not is_hidden(path.name) and not is_system(path.name))
        return sorted(path for path in found if path.is_dir())
    except OSError as error:
        raise _unreadable(error) from None


def is_system(name: str) -> bool:
    """True for the name of a folder that a system made; see `SYSTEM_FOLDERS`."""
    return name.lower() in SYSTEM_FOLDERS


def images_in(folder: Path, passed_over: list[Path]) -> Iterator[Path]:
    """Image files by their suffix, below links too; all other visible files are added to `passed_over`.

    Raises:
        UserError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise _unreadable(error)

    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        if (real := os.path.realpath(place)) in seen:  # a link to its parent
            folders.clear()
            continue
        seen.add(real)
        passed_over += [file for name in folders if is_system(name) for file in files_in(Path(place, name))]
        folders[:] = [name for name in folders if not is_hidden(name) and not is_system(name)]
        for path in (Path(place, name) for name in files if not is_hidden(name)):
            if path.suffix.lower() in SUFFIXES and _is_file(path):
                yield path
            else:
                passed_over.append(path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # names in the folder may be read, but not what they stand for
        raise _unreadable(error) from None


def _unreadable(error: OSError) -> UserError:
    return UserError(f"{printable(error.filename)} cannot be read: {error.strerror}")


def files_in(folder: Path) -> list[Path]:
    """All files below a folder."""
    return [Path(place, name) for place, _, files in os.walk(folder) for name in files]


def summary_of(paths: tuple[str, ...]) -> dict[str, int]:
    """The number of files by suffix, or by the system's folder they are in; the most frequent first."""

    def kind(path: str) -> str:
        parts = Path(path).parts
        return next((part for part in parts if is_system(part)), Path(path).suffix.lower() or "no suffix")

    return dict(Counter(map(kind, paths)).most_common())
