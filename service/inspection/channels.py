"""Channels of feature maps: which of them, their statistics, and their values in a byte each."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from models.graph.node import Node
from models.images.decode import Floats, Pixels
from models.images.input_spec import InputSpec
from service.errors import TooManyValues, UnknownParameter
from service.inspection.layers import channel_axis
from service.settings import Limit

Rank = Literal["mean", "max", "l2", "contribution"]
Scale = Literal["layer", "channel", "global", "none"]
RANKS: tuple[Rank, ...] = get_args(Rank)
SCALES: tuple[Scale, ...] = get_args(Scale)
BINS = 16


@dataclass(frozen=True)
class Selection:
    """Which channels of each layer are returned; all of them by default.

    Attributes:
        channels: by index.
        top: the number of those that rank highest.
        rank: by which number they are ranked: the mean, the largest value or the L2 norm of a channel, or its
            contribution to a class, see `explain.contribution`.
    """

    channels: tuple[int, ...] | None = None
    top: int | None = None
    rank: Rank = "mean"

    def count(self, name: str, existing: int) -> int:
        """How many channels are returned of a layer that has `existing`.

        Raises:
            UnknownParameter: it has no such channel.
        """
        if self.channels is not None:
            if self.channels and max(self.channels) >= existing:
                raise UnknownParameter(f"channels has {max(self.channels)}; {name} has channels 0 to {existing - 1}")
            return len(self.channels)
        return existing if self.top is None else min(self.top, existing)

    def of(self, value: Floats, contributions: Floats | None = None) -> npt.NDArray[np.int64]:
        """Indices of the channels of a value, ranked from the highest where they are ranked.

        Args:
            value: channels first.
            contributions: of the channels (C,), if they are ranked by these.
        """
        if self.channels is not None:
            return np.asarray(self.channels, np.int64)
        if self.top is None:
            return np.arange(len(value))
        flat = value.reshape(len(value), -1)
        if self.rank == "contribution":
            assert contributions is not None, "whoever ranks by contribution computes it"
            scores = contributions
        elif self.rank == "l2":
            scores = np.linalg.norm(flat, axis=1)
        else:
            scores = flat.mean(axis=1) if self.rank == "mean" else flat.max(axis=1)
        return np.argsort(-scores, kind="stable")[: self.top]


EVERYTHING = Selection()


def parse_channels(text: str) -> tuple[int, ...]:
    """Reads `0-7,12`: indices and ranges with both ends, each channel once, in the order given.

    Raises:
        UnknownParameter: anything else.
    """
    found: dict[int, None] = {}
    for part in text.split(","):
        first, dash, last = part.partition("-")
        numbers = [first, last] if dash else [first]
        if not all(one.isascii() and one.isdecimal() and len(one) < 6 for one in numbers):
            raise UnknownParameter(f"channels has {part[:20]!r}; wanted indices and ranges such as 0-7,12")
        begin, end = int(first), int(last if dash else first)
        if end < begin:
            raise UnknownParameter(f"channels has {part[:20]!r}, a range that ends before it begins")
        found |= dict.fromkeys(range(begin, end + 1))
    return tuple(found)


def check_size(nodes: Sequence[Node], limit: Limit, advice: str, *, images: int = 1) -> None:
    """Refuses an answer with whole layers that would be too large, from the shapes alone, before anything runs.

    Raises:
        TooManyValues: the message has the size, the limit and the advice.
    """
    total = images * sum(prod(node.shape) for node in nodes)
    if total > limit.value:
        whose = f"these {len(nodes)} layers" + (f" of {images} images" if images > 1 else "")
        raise TooManyValues(f"{whose} hold {total} values; the limit is {limit}: {advice}")


def check_selection(
    nodes: Sequence[Node], spec: InputSpec, selection: Selection, limit: Limit, advice: str = ""
) -> None:
    """The same for some channels of each layer; without advice, the message says how many would fit.

    Raises:
        TooManyValues: see `check_size`.
        UnknownParameter: a layer has no such channel.
    """
    channels = [node.shape[channel_axis(node, spec)] for node in nodes]
    places = [prod(node.shape) // max(1, count) for node, count in zip(nodes, channels, strict=True)]
    chosen = [selection.count(node.name, count) for node, count in zip(nodes, channels, strict=True)]
    total = sum(count * size for count, size in zip(chosen, places, strict=True))
    if total <= limit.value:
        return
    if not advice:
        fitting = _fitting(channels, places, limit.value)
        advice = f"top={fitting} would fit" if fitting else "even one channel of each is too much"
        advice += ", or choose some with ?layers="
    raise TooManyValues(f"these {len(nodes)} layers hold {total} values; the limit is {limit}: {advice}")


def _fitting(channels: Sequence[int], places: Sequence[int], limit: int) -> int:
    """The largest number of channels of each layer that stays within a limit; 0 if none does."""
    low, high = 0, max(channels)
    while low < high:
        middle = (low + high + 1) // 2
        fits = sum(min(middle, count) * size for count, size in zip(channels, places, strict=True)) <= limit
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def ranges(values: Sequence[Floats], scale: Scale) -> list[tuple[Floats, Floats]]:
    """What becomes 0 and what becomes 255, for each channel of each value.

    Args:
        values: of layers, channels first.
        scale: by the smallest and largest number of each channel, of each layer, or of all together (`global`); or
            from 0 to 1 (`none`).
    """
    if scale == "global" and values:
        whole = (min(float(one.min()) for one in values), max(float(one.max()) for one in values))
    found = []
    for value in values:
        flat = value.reshape(len(value), -1)
        if scale == "channel":
            found.append((flat.min(axis=1), flat.max(axis=1)))
            continue
        if scale != "global":
            whole = (float(flat.min()), float(flat.max())) if scale == "layer" else (0.0, 1.0)
        found.append((np.full(len(flat), whole[0], np.float32), np.full(len(flat), whole[1], np.float32)))
    return found


def to_bytes(value: Floats, low: Floats, high: Floats) -> Pixels:
    """A value in a byte each: `low` of its channel becomes 0, `high` 255, and what is outside is clipped.

    The value is again `low + byte / 255 * (high - low)`, within half a step.
    """
    span = (high - low).astype(np.float32)
    factor = np.divide(np.float32(255), span, out=np.zeros_like(span), where=span > 0)
    along = (-1, *[1] * (value.ndim - 1))
    scaled = (value - low.astype(np.float32).reshape(along)) * factor.reshape(along)
    found: Pixels = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return found


@dataclass(frozen=True)
class Statistics:
    """Statistics of one layer's value for one image.

    Attributes:
        mean, std, minimum, maximum: of all its numbers.
        zeros: share of numbers that are exactly 0.
        dead: channels that are 0 everywhere.
        histogram: counts of numbers in `BINS` equal bins from the minimum to the maximum.
        channels: (mean, std, minimum, maximum, share of zeros) of every channel, (C, 5).
    """

    mean: float
    std: float
    minimum: float
    maximum: float
    zeros: float
    dead: list[int]
    histogram: list[int]
    channels: Floats

    @classmethod
    def of(cls, value: Floats) -> "Statistics":
        """Measures a value, channels first."""
        flat = value.reshape(len(value), -1).astype(np.float64)
        zeros = (flat == 0).mean(axis=1)
        columns = (flat.mean(axis=1), flat.std(axis=1), flat.min(axis=1), flat.max(axis=1), zeros)
        return cls(
            mean=float(flat.mean()),
            std=float(flat.std()),
            minimum=float(flat.min()),
            maximum=float(flat.max()),
            zeros=float(zeros.mean()),
            dead=np.flatnonzero(zeros == 1).tolist(),
            histogram=np.histogram(flat, BINS)[0].tolist() if np.isfinite(flat).all() else [],
            channels=np.stack(columns, axis=1).astype(np.float32),
        )
