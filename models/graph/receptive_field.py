"""Receptive field arithmetic: the part of the image that one position of a value depends on. Needs no torch.

Araujo, Norris and Sim, Computing Receptive Fields of Convolutional Neural Networks (Distill 2019).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

Pair = tuple[int, int]  # (vertical, horizontal)
Window = dict[str, Any]  # each a Pair: kernel, stride, padding (above and to the left), dilation

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)  # permutations of (N, C, H, W) and back


@dataclass(frozen=True)
class Box:
    """Pixels of the image: rows `top` to `bottom - 1`, columns `left` to `right - 1`; may be empty."""

    top: int
    left: int
    bottom: int
    right: int

    def clipped(self, height: int, width: int) -> "Box":
        """Clips the region to an image of this size."""
        top, left = min(max(self.top, 0), height), min(max(self.left, 0), width)
        return Box(top, left, max(top, min(self.bottom, height)), max(left, min(self.right, width)))


@dataclass(frozen=True)
class ReceptiveField:
    """Receptive fields of all positions of a value, in input pixels.

    Attributes:
        size: extent of each field.
        jump: distance between the fields of neighbouring positions.
        start: first row and column of the field of position (0, 0); padding makes it negative.
        channels_last: the value is (N, H, W, C) if true, otherwise (N, C, H, W).
    """

    size: Pair = (1, 1)
    jump: Pair = (1, 1)
    start: Pair = (0, 0)
    channels_last: bool = False

    def through_window(self, window: Window) -> "ReceptiveField":
        """The field after a convolution or pool (equations 2 and 3 of the paper)."""
        kernel, stride, padding, dilation = (window[key] for key in ("kernel", "stride", "padding", "dilation"))
        height, width = (self.size[i] + dilation[i] * (kernel[i] - 1) * self.jump[i] for i in (0, 1))
        return replace(self.sliced((-padding[0], -padding[1]), stride), size=(height, width))

    def sliced(self, first: Pair, step: Pair = (1, 1)) -> "ReceptiveField":
        """The field of every `step`-th position from `first` on; `first` is negative for positions added by padding."""
        y, x = (self.start[i] + first[i] * self.jump[i] for i in (0, 1))
        return replace(self, start=(y, x), jump=(self.jump[0] * step[0], self.jump[1] * step[1]))

    def transposed(self, permutation: Sequence[int]) -> "ReceptiveField | None":
        """The field after channels move to the end or back to the front; None for any other permutation."""
        wanted = TO_FIRST if self.channels_last else TO_LAST
        return replace(self, channels_last=not self.channels_last) if tuple(permutation) == wanted else None

    def box(self, row: int, column: int) -> Box:
        """The pixels that one position depends on, possibly including padding."""
        top, left = self.start[0] + row * self.jump[0], self.start[1] + column * self.jump[1]
        return Box(top, left, top + self.size[0], left + self.size[1])


def union(fields: Sequence[ReceptiveField | None]) -> ReceptiveField | None:
    """The field of an elementwise combination of values; None if one is unknown or their layouts differ."""
    known = [field for field in fields if field is not None]
    if not fields or len(known) < len(fields) or len({(field.jump, field.channels_last) for field in known}) != 1:
        return None
    top, left = (min(field.start[i] for field in known) for i in (0, 1))
    bottom, right = (max(field.start[i] + field.size[i] for field in known) for i in (0, 1))
    return replace(known[0], start=(top, left), size=(bottom - top, right - left))
