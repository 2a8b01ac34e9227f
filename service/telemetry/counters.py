"""Counters as plain numbers: an increment takes a quarter of a microsecond; prometheus_client's takes two to four."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

Labels = tuple[str, ...]
Values = dict[str, dict[Labels, list[float]]]  # by the name of the metric and its labels


@dataclass(frozen=True)
class Definition:
    """A metric: its name without Prometheus's suffix, its description, and its labels.

    Attributes:
        buckets: upper bounds, ascending, without the infinite one; empty for a counter or gauge.
    """

    name: str
    text: str
    labels: Labels = ()
    buckets: tuple[float, ...] = ()


class Series:
    """One series, used on one event loop, so without a lock.

    Attributes:
        values: a counter's value; or a histogram's sum, followed by the count of each bucket and of the infinite one.
    """

    __slots__ = ("_buckets", "values")

    def __init__(self, buckets: tuple[float, ...] = ()) -> None:
        self._buckets = buckets
        self.values: list[float] = [0] * (len(buckets) + 2 if buckets else 1)

    def count(self, amount: float = 1) -> None:
        """Adds to a counter."""
        self.values[0] += amount

    def observe(self, value: float) -> None:
        """Adds to a histogram."""
        self.values[bisect_left(self._buckets, value) + 1] += 1
        self.values[0] += value


class MetricSeries:
    """All series of one metric, created at the first use of their labels."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self._series: dict[Labels, Series] = {}

    def of(self, *labels: str) -> Series:
        """The series with these labels, which must come from a bounded set, as series are never removed."""
        tally = self._series.get(labels)
        if tally is None:
            assert len(labels) == len(self.definition.labels), (labels, self.definition)
            tally = self._series[labels] = Series(self.definition.buckets)
        return tally

    def values(self) -> dict[Labels, list[float]]:
        """A copy of the values, by labels."""
        series = list(self._series.items())  # atomically, as a thread that opens a model may be adding series
        return {labels: list(tally.values) for labels, tally in series}


def add_values(total: Values, more: Values) -> None:
    """Adds `more` to `total`, in place."""
    for name, series in more.items():
        known = total.setdefault(name, {})
        for labels, values in series.items():
            known[labels] = added(known.get(labels), values)


def added(first: Iterable[float] | None, second: list[float]) -> list[float]:
    """The elementwise sum of two lists of equal length; a copy of the second without a first."""
    return list(second) if first is None else [a + b for a, b in zip(first, second, strict=True)]


@dataclass(frozen=True)
class Snapshot:
    """One worker's counts, and its gauges, which are meaningless once it has ended."""

    process: int
    counts: Values
    gauges: Values
