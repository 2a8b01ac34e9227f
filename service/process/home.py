"""BentoML's home: it creates folders there when it starts, even for a server that does not use its stores."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from models.errors import UserError

HOME = "BENTOML_HOME"
_PREFIX = "convscope-bentoml-"
_FOLDERS = ("bentos", "models", "envs", "tmp")


def writable_home() -> Path:
    """BentoML's home if it has the folders or they can be created, otherwise a temporary one.

    Raises:
        UserError: there is no temporary folder either, which every server needs.
    """
    home = Path(os.environ.get(HOME) or Path(os.path.expanduser("~"), "bentoml"))
    usable = home.is_absolute() and all(_can_exist(home / name) for name in _FOLDERS)  # "~" stays without a home
    try:
        if usable:
            tempfile.gettempdir()
            return home
        return Path(tempfile.mkdtemp(prefix=_PREFIX))
    except OSError:
        raise UserError(
            "no folder for temporary files can be written; mount one (docker run --tmpfs /tmp) or name it with TMPDIR"
        ) from None


def remove_temporary_home() -> None:
    """Removes a home that `writable_home` has created when this process ends."""
    if (home := Path(os.environ.get(HOME, ""))).name.startswith(_PREFIX):
        atexit.register(shutil.rmtree, home, ignore_errors=True)


def _can_exist(folder: Path) -> bool:
    try:
        there = next(place for place in (folder, *folder.parents) if place.exists())
    except OSError:  # a parent may not be looked into
        return False
    return there == folder or os.access(there, os.W_OK | os.X_OK)
