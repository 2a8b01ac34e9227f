"""Lists of images: text with a path or URL in each line, CSV and JSON Lines with further columns."""

import csv
import io
import json
import os
import posixpath
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import IO, Any, Literal

import pyarrow as pa

from models.errors import UserError
from models.results import ImageFailure
from service.batch.entries import Entry, Remark, Shard, batched, key_of, path_of
from service.batch.sources.folder import NO_COLUMNS, class_in
from service.batch.storage import is_url, open_binary

Form = Literal["text", "csv", "tsv", "jsonl"]
FORMS: dict[str, Form] = {
    **{".txt": "text", ".lst": "text", ".list": "text"},
    **{".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"},
}
IMAGE_COLUMNS = ("image", "path", "file", "filename", "file_name", "filepath", "image_path", "url", "key")
LABEL_COLUMNS = ("label", "class", "truth")
STDIN = "-"
_HEAD = 1000  # lines of JSON whose fields become columns


@dataclass(frozen=True)
class ListedShard:
    """Some lines of a list.

    Attributes:
        lines: pairs of what the list calls the image, and the values of further columns.
        base: folder or URL that relative names start from.
    """

    name: str
    lines: tuple[tuple[str, dict[str, str | None]], ...]
    base: str
    classes: frozenset[str] = frozenset()
    label_column: str = ""

    def entries(self, needed: Callable[[int], bool]) -> Iterator[Entry]:
        """See `Shard`; nothing is read here."""
        for name, extra in self.lines:
            truth = extra.get(self.label_column) if self.label_column else class_in(name, self.classes)
            known: dict[str, Any] = {"truth": truth if truth in self.classes else None, "extra": extra}
            place = name if is_url(name) else _joined(self.base, path_of(name))
            if not name:
                yield Entry(name, failure=ImageFailure("file_unreadable", "the line names no image"), **known)
            elif is_url(place):
                yield Entry(name, url=place, **known)
            else:
                yield Entry(name, path=place, **known)


@dataclass(frozen=True)
class ListSource:
    """A list.

    Attributes:
        place: its path or URL; `-` is standard input.
        form: of its lines.
        column: of the images; the first of `IMAGE_COLUMNS` if empty.
        base: folder or URL that relative names start from.
        classes: of the artifact, by which a label column or a folder's name is recognised.
        extra: further columns, all of text.
        label_column: of the truth; empty if there is none.
        header: names of all columns of CSV.
    """

    place: str
    form: Form
    column: str
    base: str
    classes: frozenset[str] = frozenset()
    extra: pa.Schema = NO_COLUMNS
    label_column: str = ""
    header: tuple[str, ...] = field(default=(), compare=False)

    @property
    def labelled(self) -> bool:
        """True if a column or a folder may be named after a class."""
        return bool(self.classes)

    @classmethod
    def open(cls, place: str, form: Form, *, column: str = "", classes: frozenset[str] = frozenset()) -> "ListSource":
        """Reads the columns of a list.

        Raises:
            UserError: it cannot be read, or has no column of images.
        """
        base = os.getcwd() if place == STDIN else (posixpath if is_url(place) else os.path).dirname(place)
        if form == "text":
            return cls(place, form, "", base, classes)
        if place == STDIN and form == "jsonl":
            raise UserError("a list on standard input is text or CSV; a JSON Lines file must be named")
        fields: dict[str, None] = {}
        header: list[str] = []
        if form == "jsonl":
            with _lines(place) as lines:
                for number, line in zip(range(_HEAD), lines, strict=False):
                    if line.strip():
                        fields |= dict.fromkeys(_object(line, place, number + 1))
        else:
            header = _header(place, form)
            fields = dict.fromkeys(header)
        found = column or next((name for name in IMAGE_COLUMNS if name in fields), "")
        if found not in fields:
            which = f"no column {column!r}" if column else f"none of the columns {', '.join(IMAGE_COLUMNS)}"
            raise UserError(
                f"{place} has {which}; it has {', '.join(fields) or 'none'}; --column NAME tells the right one"
            )
        others = [name for name in fields if name != found]
        label = next((name for name in LABEL_COLUMNS if name in others), "")
        extra = pa.schema([(name, pa.string()) for name in others])
        return cls(place, form, found, base, classes, extra, label, tuple(header))

    def count(self) -> int | None:
        """See `Source`."""
        return None if self.place == STDIN else sum(1 for _ in self._read(lambda key, reason: None))

    def shards(self, remark: Remark, block_rows: int) -> Iterator[Shard]:
        """Shards of `block_rows` lines. Empty lines are skipped."""
        for lines in batched(self._read(remark), block_rows):
            yield ListedShard(lines[0][0], lines, self.base, self.classes, self.label_column)

    def _read(self, remark: Remark) -> Iterator[tuple[str, dict[str, str | None]]]:
        with _lines(self.place) as lines:
            if self.form == "text":
                for line in lines:
                    if name := line.rstrip("\r\n"):
                        yield key_of(name), {}
            elif self.form == "jsonl":
                yield from self._objects(lines, remark)
            else:
                header = self.header if self.place == STDIN else None  # which has been read from there already
                for row in csv.DictReader(lines, header, delimiter=_DELIMITERS[self.form]):
                    image = row.get(self.column) or ""
                    yield key_of(image), {name: row.get(name) for name in self.extra.names}

    def _objects(self, lines: Iterator[str], remark: Remark) -> Iterator[tuple[str, dict[str, str | None]]]:
        known = {self.column, *self.extra.names}
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            found = _object(line, self.place, number)
            if new := [name for name in found if name not in known]:
                remark(f"line {number}", f"the field {new[0]} is not passed through: the first {_HEAD} lines lack it")
            image = found.get(self.column)
            values = {name: _as_text(found.get(name)) for name in self.extra.names}
            yield key_of(image) if isinstance(image, str) else "", values


_DELIMITERS = {"csv": ",", "tsv": "\t"}


@contextmanager
def _lines(place: str) -> Iterator[Iterator[str]]:
    """The lines of a list; bytes that are not UTF-8 are kept, as in names of files."""
    try:
        if place == STDIN:
            yield _text_of(sys.stdin.buffer)
            return
        with open_binary(place) as file:
            yield io.TextIOWrapper(_buffered(file), "utf-8-sig", "surrogateescape", newline="")
    except OSError as error:
        raise UserError(f"the list {place} cannot be read: {error.strerror or error}") from None
    except csv.Error as error:
        raise UserError(f"the list {place} is no CSV: {error}") from None


@cache
def _text_of(file: IO[bytes]) -> io.TextIOWrapper:
    """One for each file: it reads ahead, and closes the file when it is collected."""
    return io.TextIOWrapper(_buffered(file), "utf-8-sig", "surrogateescape", newline="")


def _buffered(file: IO[bytes]) -> Any:
    return file if isinstance(file, io.BufferedIOBase) else io.BufferedReader(file)


def _header(place: str, form: Form) -> list[str]:
    with _lines(place) as lines:
        return next(csv.reader(lines, delimiter=_DELIMITERS[form]), [])


def _object(line: str, place: str, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place}, line {number}: no JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f'{place}, line {number}: wanted an object, such as {{"image": "cat.jpg"}}')
    return found


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _joined(base: str, name: str) -> str:
    return posixpath.join(base, name) if is_url(base) else os.path.join(base, name)
