"""The rows of a block, as an Arrow table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.images.decode import Floats
from models.images.errors import NoFiniteScores
from models.results import ImageFailure
from service.batch.entries import Entry

_OWN = {
    *("key", "label", "probability", "labels", "probabilities", "truth", "logits", "embedding"),
    *("error_code", "error_message", "notes"),
}
NOT_FINITE = ImageFailure(NoFiniteScores.code, str(NoFiniteScores()))


@dataclass(frozen=True)
class Outputs:
    """What the network made of a block's entries; rows of images that failed are undefined.

    Attributes:
        probabilities: float32 (N, K).
        logits: float32 (N, K), if wanted.
        embedding: float32 (N, D), if wanted.
        failures, notes: by the position.
    """

    probabilities: Floats
    logits: Floats | None = None
    embedding: Floats | None = None
    failures: dict[int, ImageFailure] = field(default_factory=dict)
    notes: dict[int, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Columns:
    """Which columns rows have.

    Attributes:
        classes: of the artifact.
        top_k: number of classes in `labels` and `probabilities`.
        truth: true if entries may have one.
        logits: true if wanted.
        embedding: number of values, 0 for none.
        extra: further columns; see `extra_names`.
    """

    classes: tuple[str, ...]
    top_k: int
    truth: bool
    logits: bool
    embedding: int
    extra: pa.Schema

    @property
    def schema(self) -> pa.Schema:
        """Names and types."""
        text, number = pa.string(), pa.float32()
        own = [
            pa.field("key", text, nullable=False),
            pa.field("label", text),
            pa.field("probability", number),
            pa.field("labels", pa.list_(text)),
            pa.field("probabilities", pa.list_(number)),
            *([pa.field("truth", text)] if self.truth else []),
            *([pa.field("logits", pa.list_(number))] if self.logits else []),
            *([pa.field("embedding", pa.list_(number))] if self.embedding else []),
            pa.field("error_code", text),
            pa.field("error_message", text),
            pa.field("notes", pa.list_(text)),
        ]
        return pa.schema([*own, *(one.with_name(self.extra_names[one.name]) for one in self.extra)])

    @property
    def extra_names(self) -> dict[str, str]:
        """Names of further columns in the rows: a name of ours, or of a column that CSV has instead of our lists, gets
        the prefix `source_`, or several until nothing else has that name.
        """
        flat = {f"{name}_{place}" for name in ("label", "probability") for place in range(2, self.top_k + 1)}
        taken, found = _OWN | flat, dict[str, str]()
        kept = {name for name in self.extra.names if name not in taken}
        for name in self.extra.names:
            new = name
            while new in taken or (new != name and new in kept):
                new = f"source_{new}"
            found[name] = new
            taken = taken | {new}
        return found


def table_of(entries: Sequence[Entry], outputs: Outputs, columns: Columns) -> pa.Table:
    """One row for each entry."""
    failures = dict(outputs.failures)
    finite = np.isfinite(outputs.probabilities).all(1)
    failures |= {int(i): NOT_FINITE for i in np.flatnonzero(~finite) if int(i) not in failures}
    good = np.ones(len(entries), bool)
    good[list(failures)] = False
    order = top_classes(np.where(good[:, None], outputs.probabilities, 0), columns.top_k)
    best = np.take_along_axis(outputs.probabilities, order, 1)
    names = pa.array(columns.classes, pa.string())
    labels = names.take(pa.array(order.ravel()))
    missing = pa.array(~good)
    schema = columns.schema
    values: dict[str, pa.Array] = {
        "key": pa.array([_valid(entry.key) for entry in entries], pa.string()),
        "label": pa.DictionaryArray.from_arrays(pa.array(order[:, 0], mask=~good), names).cast(pa.string()),
        "probability": pa.array(best[:, 0], mask=~good),
        "labels": _lists(labels, columns.top_k, missing),
        "probabilities": _lists(pa.array(best.ravel()), columns.top_k, missing),
        "truth": pa.array([entry.truth for entry in entries], pa.string()),
        "error_code": _sparse(len(entries), {i: failure.code for i, failure in failures.items()}),
        "error_message": _sparse(len(entries), {i: _valid(failure.message) for i, failure in failures.items()}),
        "notes": pa.array(
            [list(outputs.notes[i]) if i in outputs.notes else None for i in range(len(entries))], pa.list_(pa.string())
        ),
    }
    for name, numbers in (("logits", outputs.logits), ("embedding", outputs.embedding)):
        if numbers is not None:
            values[name] = _lists(pa.array(numbers.ravel()), numbers.shape[1], missing)
    names_of = columns.extra_names
    for one in columns.extra:
        values[names_of[one.name]] = pa.array([entry.extra.get(one.name) for entry in entries], one.type)
    return pa.table([values[name] for name in schema.names], schema=schema)


def top_classes(probabilities: Floats, count: int) -> npt.NDArray[np.int64]:
    """Indices (N, count) of the most probable classes, best first; ties in the order of the classes."""
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :count]


def _lists(values: pa.Array, length: int, missing: pa.Array) -> pa.ListArray:
    offsets = pa.array(np.arange(len(missing) + 1, dtype=np.int32) * length)
    return pa.ListArray.from_arrays(offsets, values, mask=missing)


def _sparse(length: int, values: Mapping[int, str]) -> pa.Array:
    return pa.array([values.get(i) for i in range(length)], pa.string())


def _valid(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
