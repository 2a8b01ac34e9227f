"""Part files in Parquet, JSON Lines or CSV."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Literal

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

Format = Literal["parquet", "jsonl", "csv"]
FORMATS: tuple[Format, ...] = ("parquet", "jsonl", "csv")
JOB_KEY = b"convscope"  # of the metadata in Parquet files
csv.field_size_limit(2**31 - 1)  # cells with logits and embeddings exceed the default of 131,072 characters


def write_part(table: pa.Table, form: Format, file: IO[bytes], about: dict[str, object], top_k: int) -> None:
    """Writes rows.

    Args:
        about: model, version, artifact hash and options, for the metadata of a Parquet file.
        top_k: length of the lists of labels and probabilities.
    """
    if form == "parquet":
        metadata = {**(table.schema.metadata or {}), JOB_KEY: json.dumps(about).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), file, compression="zstd")
    elif form == "jsonl":
        for row in table.to_pylist():
            file.write(orjson.dumps(row, default=_plain, option=orjson.OPT_APPEND_NEWLINE))
    else:
        options = pa_csv.WriteOptions(include_header=True, quoting_style="needed")
        pa_csv.write_csv(_flat(table, top_k), file, options)


@dataclass(frozen=True)
class Failed:
    """A row with an error."""

    key: str
    code: str
    message: str


def read_failures(content: bytes, form: Format) -> dict[int, Failed]:
    """The rows of a part file that have errors, by their position."""
    names = ["key", "error_code", "error_message"]
    if form == "jsonl":
        rows = [orjson.loads(line) for line in content.splitlines()]
    elif form == "parquet":
        rows = pq.read_table(pa.BufferReader(content), columns=names).to_pylist()
    else:
        rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    return {i: Failed(*(str(row[name]) for name in names)) for i, row in enumerate(rows) if row["error_code"]}


def replaced(content: bytes, form: Format, positions: Sequence[int], table: pa.Table, top_k: int) -> bytes:
    """The content of a part file with the rows at some positions replaced by those of a table."""
    if form == "parquet":
        before = pq.read_table(pa.BufferReader(content))
        order = np.arange(len(before))
        order[list(positions)] = len(before) + np.arange(len(positions))
        both = pa.concat_tables([before, table.cast(before.schema).replace_schema_metadata(before.schema.metadata)])
        found = io.BytesIO()
        pq.write_table(both.take(pa.array(order)), found, compression="zstd")
        return found.getvalue()
    made = io.BytesIO()
    write_part(table, form, made, {}, top_k)
    if form == "jsonl":
        lines = content.splitlines(keepends=True)
        for position, line in zip(positions, made.getvalue().splitlines(keepends=True), strict=True):
            lines[position] = line
        return b"".join(lines)
    rows, new = (list(csv.reader(io.StringIO(one.decode(), newline=""))) for one in (content, made.getvalue()))
    for position, row in zip(positions, new[1:], strict=True):
        rows[position + 1] = row
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _flat(table: pa.Table, top_k: int) -> pa.Table:
    """Lists as columns of their own: `label_2`, `probability_2` and so on; longer ones as JSON."""
    flat: dict[str, pa.ChunkedArray] = {}
    for name in table.column_names:
        column = table.column(name)
        if not pa.types.is_list(column.type):
            nested = pa.types.is_nested(column.type) or pa.types.is_binary(column.type)
            flat[name] = _as_json(column) if nested else column
        elif name == "notes":
            flat[name] = pc.binary_join(column, "; ")
        elif name in ("labels", "probabilities"):
            filled = _filled(column, top_k)
            for place in range(1, top_k):
                flat[f"{'label' if name == 'labels' else 'probability'}_{place + 1}"] = pc.list_element(filled, place)
        else:
            flat[name] = _as_json(column)
    return pa.table(flat)


def _filled(column: pa.ChunkedArray, length: int) -> pa.ChunkedArray:
    """Rows that failed get lists of nulls, as `list_element` takes no missing ones."""
    rows = [row if row is not None else [None] * length for row in column.to_pylist()]
    return pa.chunked_array([pa.array(rows, column.type)])


def _as_json(column: pa.ChunkedArray) -> pa.ChunkedArray:
    texts = [None if value is None else orjson.dumps(value, default=_plain).decode() for value in column.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.string())])


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else str(value)
