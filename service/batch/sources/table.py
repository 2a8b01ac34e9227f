"""Parquet files with a column of images: bytes, or Hugging Face's struct of bytes and path."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.errors import UserError
from models.results import ImageFailure
from service.batch.entries import Entry, Remark, Shard, ShardError
from service.batch.sources.folder import NO_COLUMNS
from service.batch.sources.listing import LABEL_COLUMNS
from service.batch.storage import open_shard

IMAGE_COLUMNS = ("image", "img", "images", "jpg", "png", "picture", "bytes", "content", "data")
KEY_COLUMNS = ("key", "__key__", "path", "file", "filename", "file_name", "id", "url")
_ROWS = 64  # read at once; a row group may have gigabytes
_BUFFER = 1 << 20  # bytes of a column read at once


@dataclass(frozen=True)
class TableShard:
    """One Parquet file.

    Attributes:
        name: the beginning of keys, where no column has any.
        place: its path or URL.
        column: of the images.
        key_column: of the keys; empty to count rows.
        columns: that are passed through.
        classes: of the artifact.
        label_column: of the truth: names, or numbers that count the classes.
    """

    name: str
    place: str
    column: str
    key_column: str
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    label_column: str

    def entries(self, needed: Callable[[int], bool]) -> Iterator[Entry]:
        """See `Shard`; pages of the images are read as they are needed."""
        number = 0
        try:
            with open_table(self.place) as table:
                names = table.schema_arrow.names
                if missing := [name for name in self._read_columns() if name not in names]:
                    raise ShardError(f"{self.name} has no column {missing[0]}, unlike the first file")
                for batch in table.iter_batches(batch_size=_ROWS, columns=self._read_columns(), use_threads=False):
                    wanted = any(needed(number + place) for place in range(len(batch)))
                    for row in (batch if wanted else self._without_bytes(batch)).to_pylist():
                        yield self._entry(row, number, with_image=wanted)
                        number += 1
        except (pa.ArrowException, OSError) as error:
            raise ShardError(f"{self.name} cannot be read beyond its row {number}: {error}") from None

    def _without_bytes(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        image = batch.column(self.column)
        kept = [name for name in ("path",) if pa.types.is_struct(image.type) and image.type.get_field_index(name) >= 0]
        paths = pa.StructArray.from_arrays([image.field(name) for name in kept], kept) if kept else pa.nulls(len(batch))
        return batch.drop_columns([self.column]).append_column(self.column, paths)

    def _read_columns(self) -> list[str]:
        wanted = (self.column, self.key_column, self.label_column, *self.columns)
        return list(dict.fromkeys(name for name in wanted if name))

    def _entry(self, row: dict[str, Any], number: int, *, with_image: bool) -> Entry:
        image = row.get(self.column)
        data, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
        key = row.get(self.key_column) if self.key_column else None
        known: dict[str, Any] = {
            "truth": self._truth(row.get(self.label_column)) if self.label_column else None,
            "extra": {name: row.get(name) for name in self.columns},
        }
        name = str(path or (f"{self.name}#{number}" if key in (None, "") else key))
        if not with_image:
            return Entry(name, **known)
        if isinstance(data, str):
            return Entry(name, path=data, **known)
        if data is None:
            return Entry(name, failure=ImageFailure("image_empty", "the column has no image in this row"), **known)
        return Entry(name, data=data, **known)

    def _truth(self, label: Any) -> str | None:
        if isinstance(label, int) and 0 <= label < len(self.classes):
            return self.classes[label]
        return label if label in self.classes else None


@dataclass(frozen=True)
class TableSource:
    """Parquet files with the same columns.

    Attributes:
        files: their shards.
        extra: further columns with their types.
    """

    files: tuple[TableShard, ...]
    extra: pa.Schema = NO_COLUMNS

    @property
    def labelled(self) -> bool:
        """True if a column has labels."""
        return bool(self.files[0].label_column)

    def count(self) -> int | None:
        """See `Source`; from the files' ends."""
        rows = 0
        for file in self.files:
            with open_table(file.place) as table:
                rows += table.metadata.num_rows
        return rows

    @classmethod
    def open(cls, places: tuple[str, ...], *, column: str = "", classes: tuple[str, ...] = ()) -> "TableSource":
        """Reads the columns of the first file.

        Raises:
            UserError: it cannot be read, or has no column of images.
        """
        try:
            with open_table(places[0]) as table:
                schema = table.schema_arrow
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{places[0]} cannot be read as Parquet: {error}") from None
        image = column or next(
            (name for name in IMAGE_COLUMNS if name in schema.names and _holds_images(schema, name)), ""
        )
        if not column and not image:
            image = next((name for name in schema.names if _holds_images(schema, name)), "")
        if image not in schema.names:
            which = f"no column {column!r}" if column else "no column of bytes or of bytes and path"
            raise UserError(f"{places[0]} has {which}; it has {', '.join(schema.names)}")
        if not _holds_images(schema, image) and not _is_text(schema.field(image).type):
            raise UserError(
                f"{places[0]} has {schema.field(image).type} in the column {image!r}; wanted bytes, bytes and path, "
                "or paths of files"
            )
        key = next((name for name in KEY_COLUMNS if name in schema.names and name != image), "")
        others = tuple(name for name in schema.names if name not in (image, key))
        label = next((name for name in LABEL_COLUMNS if name in others), "")
        files = tuple(
            TableShard(place.rpartition("/")[2], place, image, key, others, classes, label) for place in places
        )
        return cls(files, pa.schema([schema.field(name) for name in others]))

    def shards(self, remark: Remark, block_rows: int) -> Iterator[Shard]:
        """A shard for each file."""
        yield from self.files


@contextmanager
def open_table(place: str) -> Iterator[pq.ParquetFile]:
    """Opens a Parquet file so that columns are read in small pieces.

    Raises:
        OSError, pa.ArrowException: it cannot be read.
        StorageFailed: it cannot be opened.
    """
    with open_shard(place) as file, pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False) as table:
        yield table


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _holds_images(schema: pa.Schema, name: str) -> bool:
    kind = schema.field(name).type
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
