"""Tar files, as WebDataset writes them: files of the same name before the suffix belong together."""

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath

import pyarrow as pa

from models.images.header import SUFFIXES
from models.results import ImageFailure
from service.batch.entries import Entry, Remark, Shard, ShardError, key_of
from service.batch.sources.folder import NO_COLUMNS, class_in
from service.batch.storage import open_binary

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LABEL_SUFFIX = ".cls"
_SAMPLE = 16  # images of one sample that wait for its label
_LARGEST = 2**30  # bytes of one file that is read into memory


@dataclass(frozen=True)
class TarShard:
    """One tar file, compressed or not.

    Attributes:
        name: as the source calls it, the beginning of each key if there are several.
        place: its path or URL.
        prefix: of the keys.
        classes: names that a folder or a `.cls` file may give; a number there counts them.
        largest: bytes of a file that is not read.
    """

    name: str
    place: str
    prefix: str
    classes: tuple[str, ...]
    largest: int = _LARGEST

    def entries(self, needed: Callable[[int], bool]) -> Iterator[Entry]:
        """See `Shard`. A second file of the same name gets a key that ends in `#2`."""
        seen: dict[str, int] = {}
        number = 0
        try:
            with open_binary(self.place) as file, tarfile.open(fileobj=file, mode="r|*", errorlevel=1) as archive:
                for _, group in groupby(self._members(archive), key=lambda member: _stem(member.name)):
                    images: list[tuple[str, bytes | None, ImageFailure | None]] = []
                    label = ""
                    for member in group:
                        suffix = PurePosixPath(member.name).suffix.lower()
                        if suffix == LABEL_SUFFIX:
                            label = self._content(archive, member).decode("utf-8", "replace").strip()
                        elif suffix in SUFFIXES:
                            images.append((member.name, *self._read(archive, member, needed(number))))
                            number += 1
                        if len(images) == _SAMPLE:  # no sample, but files whose names have a common beginning
                            yield from self._entries(images, label, seen)
                            images.clear()
                    yield from self._entries(images, label, seen)
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise ShardError(f"{self.name} cannot be read beyond its file {number}: {error}") from None
        except Exception as error:  # zlib.error, lzma.LZMAError
            raise ShardError(f"{self.name} is damaged beyond its file {number}: {error}") from None

    def _entries(
        self, images: list[tuple[str, bytes | None, ImageFailure | None]], label: str, seen: dict[str, int]
    ) -> Iterator[Entry]:
        for name, data, failure in images:
            key = self.prefix + key_of(name.removeprefix("./"))
            seen[key] = seen.get(key, 0) + 1
            key += f"#{seen[key]}" if seen[key] > 1 else ""
            truth = self._truth(label) or class_in(key, self.classes)
            yield Entry(key, data=data, failure=failure, truth=truth)

    def _members(self, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep all
            if not member.isdir():
                yield member

    def _read(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo, needed: bool
    ) -> tuple[bytes | None, ImageFailure | None]:
        if not member.isreg():
            return None, ImageFailure("file_unreadable", "not a file but a link or a device")
        if member.size > self.largest:
            return None, ImageFailure("image_too_large", f"{member.size:,} bytes; the limit is {self.largest:,}")
        return (self._content(archive, member) if needed else None), None

    def _content(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        file = archive.extractfile(member)
        data = b"" if file is None else file.read()
        if len(data) < member.size:
            raise tarfile.ReadError(f"{member.name} is cut off")
        return data

    def _truth(self, label: str) -> str | None:
        if label in self.classes:
            return label
        return self.classes[int(label)] if label.isdecimal() and int(label) < len(self.classes) else None


@dataclass(frozen=True)
class TarSource:
    """Tar files.

    Attributes:
        places: paths or URLs, in their order.
        classes: of the artifact.
    """

    places: tuple[str, ...]
    classes: tuple[str, ...] = ()
    extra: pa.Schema = NO_COLUMNS

    @property
    def labelled(self) -> bool:
        """True if a folder or a `.cls` file may name a class."""
        return bool(self.classes)

    def shards(self, remark: Remark, block_rows: int) -> Iterator[Shard]:
        """A shard for each file."""
        for place in self.places:
            name = place.rpartition("/")[2]
            yield TarShard(name, place, f"{key_of(name)}/" if len(self.places) > 1 else "", self.classes)


def _stem(name: str) -> str:
    """The name of a sample: the path up to the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]
