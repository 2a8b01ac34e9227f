"""Counts over rows, which add up from block to block: what the final table and the report are made of."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

BINS = 20  # of the confidence, from 0 to 1
UNCERTAIN = 24  # images kept


@dataclass(frozen=True)
class Uncertain:
    """An image whose best class is not much more probable than others."""

    key: str
    label: str
    probability: float


@dataclass
class Statistics:
    """Counts.

    Attributes:
        rows: all rows.
        errors: rows with errors, by code.
        labels: rows by class.
        confidence: rows by the bin of the best class's probability.
        truths: rows whose class is known, by class.
        confusion: rows by known class and best one.
        right: rows by bin whose known class is the best one.
        known: rows by bin whose class is known.
        summed: sum of the probabilities by bin, of rows whose class is known.
        uncertain: the rows with the lowest probabilities, lowest first.
        notes: rows with notes.
    """

    rows: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    confidence: list[int] = field(default_factory=lambda: [0] * BINS)
    truths: Counter[str] = field(default_factory=Counter)
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)
    right: list[int] = field(default_factory=lambda: [0] * BINS)
    known: list[int] = field(default_factory=lambda: [0] * BINS)
    summed: list[float] = field(default_factory=lambda: [0.0] * BINS)
    uncertain: list[Uncertain] = field(default_factory=list)
    notes: int = 0

    @classmethod
    def of(cls, table: pa.Table) -> "Statistics":
        """Counts of the rows of a block."""
        found = cls(rows=len(table))
        codes = table.column("error_code").to_pylist()
        found.errors.update(code for code in codes if code)
        found.notes = len(table) - table.column("notes").null_count
        good = np.array([code is None for code in codes], bool)
        labels = np.array(table.column("label").to_pylist(), object)[good]
        probabilities = np.nan_to_num(table.column("probability").to_numpy()[good])
        keys = np.array(table.column("key").to_pylist(), object)[good]
        found.labels.update(labels.tolist())
        bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
        found.confidence = np.bincount(bins, minlength=BINS).tolist()
        if "truth" in table.column_names:
            truths = np.array(table.column("truth").to_pylist(), object)[good]
            known = np.array([truth is not None for truth in truths], bool)
            found.truths.update(truths[known].tolist())
            found.confusion.update(zip(truths[known].tolist(), labels[known].tolist(), strict=True))
            right = known & (truths == labels)
            found.known = np.bincount(bins[known], minlength=BINS).tolist()
            found.right = np.bincount(bins[right], minlength=BINS).tolist()
            found.summed = np.bincount(bins[known], weights=probabilities[known], minlength=BINS).tolist()
        lowest = np.argsort(probabilities, kind="stable")[:UNCERTAIN]
        found.uncertain = [Uncertain(keys[i], labels[i], float(probabilities[i])) for i in lowest]
        return found

    def add(self, other: "Statistics") -> None:
        """Adds the counts of other rows."""
        self.rows += other.rows
        self.notes += other.notes
        for name in ("errors", "labels", "truths", "confusion"):
            getattr(self, name).update(getattr(other, name))
        for name in ("confidence", "right", "known", "summed"):
            setattr(self, name, [a + b for a, b in zip(getattr(self, name), getattr(other, name), strict=True)])
        both = sorted([*self.uncertain, *other.uncertain], key=lambda one: (one.probability, one.key))
        self.uncertain = both[:UNCERTAIN]

    def without(self, errors: Counter[str]) -> "Statistics":
        """A copy without rows that had errors, by code."""
        found = Statistics.from_json(self.to_json())
        found.rows -= errors.total()
        found.errors -= errors
        return found

    @property
    def failed(self) -> int:
        """Rows with errors."""
        return self.errors.total()

    @property
    def accuracy(self) -> float | None:
        """Share of the rows with a known class whose best class is this; None if there are none."""
        return sum(self.right) / total if (total := sum(self.known)) else None

    @property
    def calibration_error(self) -> float | None:
        """Expected calibration error (Guo et al. 2017) in bins of equal width; None if no class is known."""
        if not (total := sum(self.known)):
            return None
        return sum(abs(s - r) for s, r in zip(self.summed, self.right, strict=True)) / total

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        confusion = [[*pair, count] for pair, count in self.confusion.items()]
        return {**vars(self), "confusion": confusion, "uncertain": [asdict(one) for one in self.uncertain]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Statistics":
        """The reverse of `to_json`."""
        counters = {name: Counter(values[name]) for name in ("errors", "labels", "truths")}
        confusion = Counter({(truth, label): count for truth, label, count in values["confusion"]})
        uncertain = [Uncertain(**one) for one in values["uncertain"]]
        return cls(**{**values, **counters, "confusion": confusion, "uncertain": uncertain})


def shares(counts: Counter[str], names: Sequence[str]) -> list[float]:
    """The shares of names in counts, in [0, 1]."""
    total = counts.total() or 1
    return [counts[name] / total for name in names]
