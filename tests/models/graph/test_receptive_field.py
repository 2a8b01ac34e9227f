"""The arithmetic of receptive fields, by hand; and that of every registered network, by gradients."""

from dataclasses import replace

import pytest
import torch

from models.graph.node import Pair
from models.graph.node_table import node_table
from models.graph.receptive_field import Box, ReceptiveField, union
from models.networks.registry import build_network
from tests.conftest import make_spec
from tests.models.graph.gradients import LinearValues, extent
from tests.registered import HEAVY, SIZES, in_acceptance

FIELD = ReceptiveField(size=(5, 7), jump=(2, 3), start=(-1, -2))


def test_a_window_widens_by_its_extent_and_begins_before_by_its_padding() -> None:
    window = {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 4), "dilation": (2, 1)}
    assert FIELD.through_window(window) == ReceptiveField(size=(13, 10), jump=(4, 3), start=(-3, -14))


def test_steps_begin_at_the_first_position_taken() -> None:
    assert FIELD.sliced((1, -2), (3, 1)) == replace(FIELD, start=(1, -8), jump=(6, 3))


@pytest.mark.parametrize(
    ("other", "start", "size"),
    [
        ((1, 1, 0, 0), (-1, -2), (5, 7)),
        ((9, 9, -3, -3), (-3, -3), (9, 9)),
        ((5, 7, 1, -4), (-1, -4), (7, 9)),
        ((1, 1, 6, 8), (-1, -2), (8, 11)),
    ],
    ids=["inside", "around", "beside", "apart"],
)
def test_a_union_reaches_from_the_first_pixel_to_the_last(other: tuple[int, ...], start: Pair, size: Pair) -> None:
    other_field = replace(FIELD, size=other[:2], start=other[2:])
    assert union([FIELD, other_field]) == union([other_field, FIELD]) == replace(FIELD, start=start, size=size)


@pytest.mark.parametrize("other", [None, replace(FIELD, jump=(2, 2)), replace(FIELD, channels_last=True)])
def test_values_that_are_unknown_or_laid_out_apart_have_no_union(other: ReceptiveField | None) -> None:
    assert union([FIELD, other]) is None
    assert union([]) is None


def test_only_channels_move() -> None:
    last = FIELD.transposed((0, 2, 3, 1))
    assert last == replace(FIELD, channels_last=True) and last.transposed([0, 3, 1, 2]) == FIELD
    assert FIELD.transposed((0, 3, 1, 2)) is FIELD.transposed((0, 1, 3, 2)) is None


@pytest.mark.parametrize(
    ("row", "column", "whole", "clipped"),
    [
        (0, 0, (-1, -2, 4, 5), (0, 0, 4, 5)),
        (2, 3, (3, 7, 8, 14), (3, 7, 8, 12)),
        (9, 9, (17, 25, 22, 32), (10, 12, 10, 12)),
    ],
)
def test_a_box_is_clipped_to_the_image(row: int, column: int, whole: tuple[int, ...], clipped: tuple[int, ...]) -> None:
    box = FIELD.box(row, column)
    assert box == Box(*whole)
    assert box.clipped(10, 12) == Box(*clipped)


@pytest.mark.parametrize("tall", [True, False])
@pytest.mark.parametrize(("name", "size"), in_acceptance(HEAVY, SIZES))
def test_gradients_reach_exactly_the_boxes_of_every_registered_network(name: str, size: int, tall: bool) -> None:
    with torch.device("meta"):
        network = build_network(name, channels=1, height=size, width=size, classes=10)
        table = node_table(network, make_spec(size, 1))
    fields: dict[ReceptiveField, str] = {}  # and the first node that has it
    for row in table:
        if row.receptive_field and row.jump and row.start:
            fields.setdefault(ReceptiveField(row.receptive_field, row.jump, row.start), row.name)
    assert bool(fields) == (name != "mlp")
    # Long enough for the widest field, so that nothing is cut off; across, the least that all strides divide.
    widest = max((max(field.size) + 3 * max(field.jump) for field in fields), default=1)
    long, across = -(-widest // 32) * 32, 32
    x = torch.rand(1, 1, *((long, across) if tall else (across, long)), dtype=torch.float64, requires_grad=True)
    values = LinearValues(network, size).run_until_refused(x)
    height, width = x.shape[-2:]
    for field, node in fields.items():
        y = values[node]
        middle = y.shape[-2] // 2, y.shape[-1] // 2
        box = field.box(*middle)
        assert (box.top > 0 and box.bottom < height) if tall else (box.left > 0 and box.right < width), "cut off"
        for unit in (middle, (0, 0), (y.shape[-2] - 1, y.shape[-1] - 1)):
            assert extent(y, x, *unit) == field.box(*unit).clipped(height, width), (node, unit)
