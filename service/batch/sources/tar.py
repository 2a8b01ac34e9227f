"""Tar files, as WebDataset writes them: files of the same name before the suffix belong together."""

import bz2
import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import IO, Any

import pyarrow as pa

from models.images.header import SUFFIXES
from models.results import ImageFailure
from service.batch.entries import Entry, Remark, Shard, ShardError, key_of
from service.batch.sources.folder import NO_COLUMNS, class_in
from service.batch.storage import StorageFailed, open_shard

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LABEL_SUFFIX = ".cls"
_OPENERS: Mapping[str, Callable[[IO[bytes]], Any]] = {
    **dict.fromkeys((".gz", ".tgz"), lambda file: gzip.GzipFile(fileobj=file)),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
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
            with open_shard(self.place) as packed, _unpacked(packed, self.place) as file:
                with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as archive:
                    for _, group in groupby(_members(archive), key=_sample):
                        images: list[tuple[str, bytes | None, ImageFailure | None]] = []
                        label = ""
                        for member in group:
                            suffix = os.path.splitext(member.name)[1].lower()
                            if suffix == LABEL_SUFFIX:
                                label = _content(file, member).decode("utf-8", "replace").strip()
                            elif suffix in SUFFIXES:
                                images.append((member.name, *self._read(file, member, needed(number))))
                                number += 1
                            if len(images) == _SAMPLE:  # no sample, but files whose names have a common beginning
                                yield from self._entries(images, label, seen)
                                images.clear()
                        yield from self._entries(images, label, seen)
        except StorageFailed:
            raise
        except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
            raise ShardError(f"{self.name} cannot be read beyond its file {number}: {error}") from None

    def _entries(
        self, images: list[tuple[str, bytes | None, ImageFailure | None]], label: str, seen: dict[str, int]
    ) -> Iterator[Entry]:
        for name, data, failure in images:
            key = self.prefix + key_of(name.removeprefix("./"))
            seen[key] = seen.get(key, 0) + 1
            key += f"#{seen[key]}" if seen[key] > 1 else ""
            truth = self._truth(label) or class_in(key, self.classes)
            yield Entry(key, data=data, failure=failure, truth=truth)

    def _read(self, file: IO[bytes], member: tarfile.TarInfo, needed: bool) -> tuple[bytes | None, ImageFailure | None]:
        if not member.isreg() or member.issparse():
            return None, ImageFailure("file_unreadable", "not a file but a link or a device")
        if member.size > self.largest:
            return None, ImageFailure("image_too_large", f"{member.size:,} bytes; the limit is {self.largest:,}")
        return (_content(file, member) if needed else None), None

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

    def count(self) -> int | None:
        """See `Source`."""
        return None

    def shards(self, remark: Remark, block_rows: int) -> Iterator[Shard]:
        """A shard for each file."""
        for place in self.places:
            name = place.rpartition("/")[2]
            yield TarShard(name, place, f"{key_of(name)}/" if len(self.places) > 1 else "", self.classes)


class _Header(tarfile.TarInfo):
    """Reads only name and size of an ordinary file's header, in a fifth of the time; tarfile reads all others."""

    @classmethod
    def frombuf(  # type: ignore[override]
        cls, buf: bytes, encoding: str, errors: str, **named: Any
    ) -> "_Header":
        """See `TarInfo.frombuf`; the checksum is compared too."""
        kind, size, prefix = buf[156:157], buf[124:136], buf[345:346]
        if len(buf) != tarfile.BLOCKSIZE or kind not in (b"0", b"\0") or prefix != b"\0" or size[0] & 0x80:
            return super().frombuf(buf, encoding, errors, **named)
        try:
            if sum(buf) - sum(buf[148:156]) + 256 != int(buf[148:156].strip(b" \0"), 8):
                return super().frombuf(buf, encoding, errors, **named)
            found = cls(buf[:100].partition(b"\0")[0].decode(encoding, errors))
            found.size = int(size.strip(b" \0") or b"0", 8)
        except ValueError:
            return super().frombuf(buf, encoding, errors, **named)
        return super().frombuf(buf, encoding, errors, **named) if found.name.endswith("/") else found


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # it would keep all
        if not member.isdir():
            yield member


def _content(file: IO[bytes], member: tarfile.TarInfo) -> bytes:
    """A member's bytes; `TarFile.extractfile` takes three times as long for small ones."""
    file.seek(member.offset_data)
    data = file.read(member.size)
    if len(data) < member.size:
        raise tarfile.ReadError(f"{member.name} is cut off")
    return data


def _sample(member: tarfile.TarInfo) -> str:
    """The path up to the first dot of its last part."""
    folder, slash, last = member.name.rpartition("/")
    return folder + slash + last.partition(".")[0]


@contextmanager
def _unpacked(file: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    """The content of a compressed file, from front to back."""
    opener = next((opener for ending, opener in _OPENERS.items() if name.lower().endswith(ending)), None)
    if opener is None:
        yield file
        return
    with opener(file) as unpacked:
        yield unpacked
