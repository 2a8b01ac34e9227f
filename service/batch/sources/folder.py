"""A folder of images, or files that match a pattern, with all folders below."""

import heapq
import os
import pickle
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import IO

import pyarrow as pa
from fsspec.utils import glob_translate

from models.errors import UserError
from models.images.header import SUFFIXES
from models.results import ImageFailure
from service.batch.entries import Entry, Remark, Shard, batched, key_of
from service.batch.storage import files_below, mounted, why_no_file
from training.data.walk import is_hidden, is_system

NO_COLUMNS = pa.schema([])
MAGIC = re.compile(r"[*?\[]")  # makes a name a pattern
_RUN = 100_000  # names of one folder that are sorted in memory


@dataclass(frozen=True)
class KeysShard:
    """Files by their keys.

    Attributes:
        files: pairs of a key and a path, or of a key and a URL.
        failures: by key, for what is no file.
    """

    name: str
    files: tuple[tuple[str, str], ...]
    remote: bool = False
    classes: frozenset[str] = frozenset()
    failures: dict[str, ImageFailure] = field(default_factory=dict)

    def entries(self, needed: Callable[[int], bool]) -> Iterator[Entry]:
        """See `Shard`; nothing is read here."""
        for key, place in self.files:
            failure, truth = self.failures.get(key), class_in(key, self.classes)
            if failure is not None:
                yield Entry(key, failure=failure, truth=truth)
            elif self.remote:
                yield Entry(key, url=place, truth=truth)
            else:
                yield Entry(key, path=place, truth=truth)


def class_in(key: str, classes: Collection[str]) -> str | None:
    """The class that the nearest folder of a key is named after; None if there is none."""
    return next((part for part in reversed(key.split("/")[:-1]) if part in classes), None)


@dataclass(frozen=True)
class FolderSource:
    """A local folder.

    Attributes:
        root: its path.
        pattern: of paths below it, as for `glob`; all files with an image's suffix if empty.
        classes: of the artifact; the name of a folder that is one of them is the truth about its images.
        without: paths at and below which nothing is read: the output.
    """

    root: str
    pattern: str = ""
    classes: frozenset[str] = frozenset()
    without: tuple[str, ...] = ()
    extra: pa.Schema = NO_COLUMNS

    @property
    def labelled(self) -> bool:
        """True if a folder at the top, or in one, is named after a class."""
        return bool(self.classes)

    def count(self) -> int | None:
        """See `Source`."""
        return sum(1 for _ in self._files(lambda key, reason: None, {}))

    def shards(self, remark: Remark, block_rows: int) -> Iterator[Shard]:
        """Shards of `block_rows` files in the order of their paths. Files with other suffixes are passed over, and so
        are hidden and system folders, folders that may not be read, and links to a folder above.

        Raises:
            UserError: a folder cannot be read because the disk or the system fails.
        """
        failures: dict[str, ImageFailure] = {}
        for files in batched(self._files(remark, failures), block_rows):
            found = {key: failures.pop(key) for key, _ in files if key in failures}
            yield KeysShard(files[0][0], files, classes=self.classes, failures=found)

    def _files(self, remark: Remark, failures: dict[str, ImageFailure]) -> Iterator[tuple[str, str]]:
        avoided = {os.path.realpath(path) for path in self.without}
        matches = _matcher(self.pattern)

        def walk(folder: str, above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
            real = os.path.realpath(folder)
            if real in avoided:
                return
            key = self._key(folder)
            if real in above:
                remark(key, "a link to a folder above it")
                return
            try:
                for name, is_folder in sorted_names(folder):
                    path = os.path.join(folder, name)
                    if is_folder:
                        if is_hidden(name) or is_system(name):
                            remark(self._key(path), "a hidden folder, or one that a system made")
                        else:
                            yield from walk(path, (*above, real))
                    elif is_hidden(name) or not matches(self._key(path)):
                        remark(self._key(path), "a hidden file" if is_hidden(name) else "no image by its name")
                    elif os.path.realpath(path) not in avoided:
                        if failure := _failure(path):
                            failures[self._key(path)] = failure
                        yield self._key(path), path
            except OSError as error:
                own = isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError)
                if folder == self.root or not own:  # of the disk, the network or the machine
                    raise UserError(f"the folder {folder} cannot be read: {error.strerror}") from None
                remark(key, f"the folder cannot be read: {error.strerror}")

        yield from walk(self.root, ())

    def _key(self, path: str) -> str:
        return key_of(os.path.relpath(path, self.root))


@dataclass(frozen=True)
class RemoteSource:
    """A folder of an fsspec file system, or the files that match a pattern there.

    Attributes:
        url: of the folder, with its protocol.
        pattern, classes: as in `FolderSource`.
    """

    url: str
    pattern: str = ""
    classes: frozenset[str] = frozenset()
    extra: pa.Schema = NO_COLUMNS

    @property
    def labelled(self) -> bool:
        """As in `FolderSource`."""
        return bool(self.classes)

    def count(self) -> int | None:
        """See `Source`; listing twice would cost requests."""
        return None

    def shards(self, remark: Remark, block_rows: int) -> Iterator[Shard]:
        """As in `FolderSource`, but S3's files come in the order of their whole keys."""
        for files in batched(self._files(remark), block_rows):
            yield KeysShard(files[0][0], files, remote=True, classes=self.classes)

    def _files(self, remark: Remark) -> Iterator[tuple[str, str]]:
        matches, hidden = _matcher(self.pattern), ""
        literal = MAGIC.split(self.pattern, maxsplit=1)[0]
        for key in files_below(self.url, literal, lambda path: remark(path, "a folder that vanished")):
            *folders, name = key.split("/")
            place = next((i for i, one in enumerate(folders, 1) if is_hidden(one) or is_system(one)), 0)
            if place:
                if hidden != (hidden := "/".join(folders[:place])):  # its files follow one another
                    remark(hidden, "a hidden folder, or one that a system made")
            elif is_hidden(name) or not matches(key):
                remark(key, "a hidden file" if is_hidden(name) else "no image by its name")
            else:
                yield key, f"{self.url.rstrip('/')}/{key}"


def sorted_names(folder: str, run: int = _RUN) -> Iterator[tuple[str, bool]]:
    """Names in a folder in their order, each with whether it is a folder (links followed), however many there are:
    runs of names are sorted one by one, kept in temporary files and merged.

    Raises:
        OSError: the folder cannot be read.
    """
    with ExitStack() as opened:
        runs: list[Iterable[tuple[str, bool]]] = []
        with os.scandir(folder) as found:
            for names in batched(((entry.name, _is_folder(entry)) for entry in found), run):
                if len(names) < run:
                    runs.append(sorted(names))
                    break
                file = opened.enter_context(tempfile.TemporaryFile())
                for name in sorted(names):
                    pickle.dump(name, file)
                file.seek(0)
                runs.append(_unpickled(file))
        yield from heapq.merge(*runs)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links that lead in a circle
        return False


def _unpickled(file: IO[bytes]) -> Iterator[tuple[str, bool]]:
    while True:
        try:
            yield pickle.load(file)
        except EOFError:
            return


def _matcher(pattern: str) -> Callable[[str], bool]:
    if not pattern:
        return lambda key: os.path.splitext(key)[1].lower() in SUFFIXES
    compiled = re.compile(glob_translate(pattern))
    return lambda key: compiled.fullmatch(key) is not None


def _failure(path: str) -> ImageFailure | None:
    """Why a path is no file; None for a regular file, which may still be unreadable."""
    try:
        with mounted(path):
            mode = os.stat(path).st_mode
    except OSError as error:
        return ImageFailure("file_unreadable", f"the link leads nowhere: {error.strerror}")
    reason = why_no_file(mode)
    return ImageFailure("file_unreadable", reason) if reason else None
