"""What a source consists of: entries, each of which gets one row, in shards that are read from front to back."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy.typing as npt
import pyarrow as pa

from models.results import ImageFailure

T = TypeVar("T")
Remark = Callable[[str, str], None]  # takes a key that gets no row, and the reason
_ESCAPE = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")


@dataclass(slots=True)  # not frozen: that would triple the time to make one
class Entry:
    """One image of a source. Exactly one of `path`, `url`, `data`, `pixels` and `failure` is set, unless the content
    was not needed or has been dropped.

    Attributes:
        key: identifies it in the source, see `key_of`.
        path: of a local file.
        url: of a file elsewhere, for fsspec.
        data: a file's bytes.
        pixels: a decoded image, uint8 (H, W) or (H, W, 3).
        failure: why there is nothing to decode.
        truth: the class where it is known.
        extra: values of further columns that are passed through.
    """

    key: str
    path: str | None = None
    url: str | None = None
    data: bytes | None = None
    pixels: npt.NDArray[Any] | None = None
    failure: ImageFailure | None = None
    truth: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def drop_content(self) -> None:
        """Frees the image, which is not needed for the row."""
        self.data = self.pixels = None


class Shard(Protocol):
    """A part of a source that one process reads from front to back: a tar file, or some thousand keys of a folder. It
    can be pickled.
    """

    def entries(self, needed: Callable[[int], bool]) -> Iterator[Entry]:
        """All entries, in an order that does not change.

        Args:
            needed: is asked with the number of an entry, from 0; entries that are not needed may come without their
                content, so that it need not be read.

        Raises:
            ShardError: the rest of the shard cannot be read.
        """
        ...


class Source(Protocol):
    """Everything that a job classifies."""

    @property
    def extra(self) -> pa.Schema:
        """Further columns of all entries."""
        ...

    @property
    def labelled(self) -> bool:
        """True if entries may have a `truth`."""
        ...

    def count(self) -> int | None:
        """The number of entries, for progress; None if only reading all of them would tell."""
        ...

    def shards(self, remark: Remark, block_rows: int) -> Iterator[Shard]:
        """All shards, in an order that does not change, while the source is still being listed.

        Args:
            remark: is called for everything that is passed over.
            block_rows: entries that a shard without a natural size has.

        Raises:
            UserError: the source cannot be read.
        """
        ...


class ShardError(Exception):
    """The rest of a shard cannot be read; the message says why."""


@dataclass(frozen=True)
class Batch:
    """Consecutive entries of a block, which run through the network together.

    Attributes:
        block: the name of their block.
        start: position of the first one in the block.
        entries: those that are not needed may come without content.
        runs: positions in the batch of those that are needed.
        closes: true for the last batch of a block.
        last: true for the last batch of a shard.
        problem: why the shard ends here, if it could not be read to its end.
    """

    block: str
    start: int
    entries: tuple[Entry, ...]
    runs: tuple[int, ...]
    closes: bool
    last: bool
    problem: str = ""


Needed = Callable[[str, int], bool]  # of the entry at a position of a block


def batches_of(shard: Shard, number: int, *, rows: int, size: int, needed: Needed) -> Iterator[Batch]:
    """Cuts a shard into blocks, and these into batches; what cannot be read becomes the last batch's `problem`.

    Args:
        number: of the shard in its source.
        rows: entries of each block but the last, a multiple of `size`.
        size: entries of each batch but the last.
    """

    def wanted(index: int) -> bool:
        return needed(block_name(number, index // rows), index % rows)

    waiting: list[Entry] = []
    first = 0

    def batch(*, last: bool, problem: str = "") -> Batch:
        start, name = first % rows, block_name(number, first // rows)
        runs = tuple(place for place in range(len(waiting)) if needed(name, start + place))
        closes = last or start + len(waiting) == rows
        return Batch(name, start, tuple(waiting), runs, closes, last, problem)

    problem = ""
    try:
        for entry in shard.entries(wanted):
            if len(waiting) == size:
                yield batch(last=False)
                waiting, first = [], first + size
            waiting.append(entry)
    except ShardError as error:
        problem = str(error)
    yield batch(last=True, problem=problem)


def block_name(shard: int, number: int) -> str:
    """The name of a shard's block; names sort as the source does."""
    return f"{shard:06}-{number:04}"


def shard_of(block: str) -> int:
    """The number of the shard in a block's name."""
    return int(block.partition("-")[0])


def batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Tuples of `size` items; the last one may be shorter. `itertools.batched` came with Python 3.12."""
    rest = iter(items)
    while batch := tuple(islice(rest, size)):
        yield batch


def add_digest(found: "hashlib.blake2b", entry: Entry) -> None:
    """Adds the key and the passed-through values of an entry to a hash, by which a changed source is noticed."""
    found.update(f"{entry.key}\0{entry.truth}\0{sorted(entry.extra.items())}\0".encode("utf-8", "surrogatepass"))


def key_of(path: str | bytes) -> str:
    r"""A path as a key: `\` is doubled, and bytes that are not UTF-8 become `\xe9`; `path_of` turns it back."""
    raw = os.fsencode(path).replace(b"\\", b"\\\\")
    return raw.decode("utf-8", "backslashreplace")


def path_of(key: str) -> str:
    """The path that `key_of` made a key of."""
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 16)]) if match[1] else b"\\", key.encode()))
