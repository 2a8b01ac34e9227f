"""Finds out what a source is by its name."""

import glob
import os
import re
from collections.abc import Sequence

from models.errors import UserError
from service.batch.entries import Source
from service.batch.sources.folder import MAGIC, FolderSource, RemoteSource
from service.batch.sources.listing import FORMS, STDIN, ListSource
from service.batch.sources.table import TableSource
from service.batch.sources.tar import TAR_SUFFIXES, TarSource
from service.batch.storage import file_system, is_url
from training.data.datasets import DATASETS

_BRACES = re.compile(r"^(.*)\{(\d+)\.\.(\d+)\}(.*)$")


def open_source(name: str, *, classes: Sequence[str], column: str = "", output: tuple[str, ...] = ()) -> Source:
    """The source that a name means.

    Args:
        name: a folder, a file, a pattern, a list, tar files, Parquet files, a data set, or `-`.
        classes: of the artifact.
        column: of the images in a list or table.
        output: paths of the job's own output, which are not read.

    Raises:
        UserError: there is no such source, or it cannot be read.
    """
    known = frozenset(classes)
    if name == STDIN:
        return ListSource.open(STDIN, "csv" if column else "text", column=column, classes=known)
    if name in DATASETS and not os.path.exists(name):
        from service.batch.sources.dataset import DatasetSource

        return DatasetSource(name)
    places = _places(name)
    if places != (name,):
        places = tuple(place for place in places if not _is_below(place, output))
        if not places:
            raise UserError(f"no file matches {name} but the output")
    suffixes = {_suffix(place) for place in places}
    if len(suffixes) == 1 and not _is_folder(places[0]):
        (suffix,) = suffixes
        if suffix in TAR_SUFFIXES:
            return TarSource(places, tuple(classes))
        if suffix == ".parquet":
            return TableSource.open(places, column=column, classes=tuple(classes))
        if suffix in FORMS and len(places) == 1:
            return ListSource.open(places[0], FORMS[suffix], column=column, classes=known)
    return _images(name, known, output)


def placed(name: str) -> str:
    """A source's name, with an absolute path if it is a local one."""
    if name == STDIN or is_url(name) or (name in DATASETS and not os.path.exists(name)):
        return name
    return os.path.abspath(name)


def _places(name: str) -> tuple[str, ...]:
    """The files that a name means, if these are shards; else the name itself."""
    if match := _BRACES.match(name):  # as in WebDataset: shard-{000..012}.tar
        width = len(match[2])
        names = [f"{match[1]}{number:0{width}}{match[4]}" for number in range(int(match[2]), int(match[3]) + 1)]
        return tuple(names)
    if _suffix(name) in (*TAR_SUFFIXES, ".parquet"):
        if MAGIC.search(name):
            found = _remote_matches(name) if is_url(name) else sorted(glob.glob(name, recursive=True))
            if not found:
                raise UserError(f"no file matches {name}")
            return tuple(found)
        if _is_folder(name):  # as written by Spark and by this command
            fs_names = _remote_matches(f"{name}/*.parquet") if is_url(name) else sorted(glob.glob(f"{name}/*.parquet"))
            return tuple(fs_names) or (name,)
    return (name,)


def _images(name: str, classes: frozenset[str], output: tuple[str, ...]) -> Source:
    if match := MAGIC.search(name):
        root = name[: match.start()].rpartition("/")[0]
        pattern = name[len(root) + 1 :] if root or name.startswith("/") else name
        if is_url(name):
            return RemoteSource(root, pattern, classes)
        root = root or ("/" if name.startswith("/") else ".")
        if not os.path.isdir(root):
            raise UserError(f"the folder {root} does not exist")
        return FolderSource(root, pattern, classes, without=output)
    if is_url(name):
        fs = file_system(name)
        try:
            exists, is_folder = fs.exists(name), fs.isdir(name)
        except Exception as error:  # each file system has errors of its own
            raise UserError(f"{name} cannot be read: {error}") from None
        if not exists:
            raise UserError(f"{name} does not exist, or may not be read")
        if is_folder:
            return RemoteSource(name, classes=classes)
        root, _, last = name.rpartition("/")
        return RemoteSource(root, glob.escape(last), classes)
    if os.path.isdir(name):
        return FolderSource(name, classes=classes, without=output)
    if os.path.lexists(name):
        root, last = os.path.split(name)
        return FolderSource(root or ".", glob.escape(last), classes, without=output)
    raise UserError(
        f"{name} does not exist; wanted a folder, a file, a pattern in quotes, a list, tar or Parquet files, "
        f"one of {', '.join(DATASETS)}, or - for a list on standard input"
    )


def _is_below(place: str, folders: tuple[str, ...]) -> bool:
    """True if it is one of them, or in one."""
    whole = [one if is_url(one) else os.path.realpath(one) for one in (place, *folders)]
    return any(whole[0] == one or whole[0].startswith(f"{one}/") for one in whole[1:])


def _remote_matches(pattern: str) -> list[str]:
    protocol = pattern.partition("://")[0]
    return [f"{protocol}://{path}" for path in sorted(map(str, file_system(pattern).glob(pattern)))]


def _is_folder(name: str) -> bool:
    return bool(file_system(name).isdir(name)) if is_url(name) else os.path.isdir(name)


def _suffix(name: str) -> str:
    last = name.rpartition("/")[2].lower()
    return next((suffix for suffix in TAR_SUFFIXES if last.endswith(suffix)), os.path.splitext(last)[1])
