import numpy as np
import pytest

from models.graph.node import Node
from service.errors import TooManyValues, UnknownParameter
from service.inspection.channels import (
    EVERYTHING,
    Selection,
    Statistics,
    check_selection,
    parse_channels,
    ranges,
    to_bytes,
)
from service.settings import Limit
from tests.conftest import make_spec

SPEC = make_spec(32)
RNG = np.random.default_rng(0)
VALUE = RNG.normal(size=(6, 4, 5)).astype(np.float32)


def node(*shape: int) -> Node:
    return Node(name="n", op="x", parents=(), shape=shape)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("3", (3,)),
        ("0-3", (0, 1, 2, 3)),
        ("0-2,7", (0, 1, 2, 7)),
        ("5,1,5", (5, 1)),
        ("4-4", (4,)),
        ("2-3,1-4", (2, 3, 1, 4)),
    ],
)
def test_channels_are_indices_and_ranges(text, wanted):
    assert parse_channels(text) == wanted


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1-", "1,,2", "1.5", "٣", "1 2", "123456"])
def test_other_texts_are_refused(text):
    with pytest.raises(UnknownParameter, match="channels has"):
        parse_channels(text)


@pytest.mark.parametrize(
    ("rank", "score"),
    [
        ("mean", lambda one: one.mean()),
        ("max", lambda one: one.max()),
        ("l2", lambda one: np.sqrt((one.astype(np.float64) ** 2).sum())),
    ],
)
def test_the_highest_channels_come_first(rank, score):
    wanted = sorted(range(6), key=lambda channel: -score(VALUE[channel]))
    assert Selection(top=4, rank=rank).of(VALUE).tolist() == wanted[:4]
    assert Selection(top=9, rank=rank).of(VALUE).tolist() == wanted
    assert Selection(top=2, rank=rank).of(np.float32([1, 3, 2])).tolist() == [1, 2]


def test_equal_channels_keep_their_order():
    assert Selection(top=3).of(np.ones((5, 2, 2), np.float32)).tolist() == [0, 1, 2]


def test_contributions_rank_channels_where_these_are_asked_for():
    contributions = np.float32([0, 3, -1, 2, 5, 4])
    assert Selection(top=3, rank="contribution").of(VALUE, contributions).tolist() == [4, 5, 1]


def test_a_size_over_the_limit_is_refused_with_a_number_of_channels_that_fits():
    nodes = [node(64, 10, 10), node(8, 20, 20), node(100)]
    with pytest.raises(TooManyValues, match=r"hold 9700 values; the limit is 1234: top=(\d+) would fit") as refused:
        check_selection(nodes, SPEC, EVERYTHING, Limit(1234))
    top = int(str(refused.value).partition("top=")[2].partition(" ")[0])
    check_selection(nodes, SPEC, Selection(top=top), Limit(1234))
    with pytest.raises(TooManyValues):
        check_selection(nodes, SPEC, Selection(top=top + 1), Limit(1234))
    with pytest.raises(TooManyValues, match="even one channel of each is too much"):
        check_selection(nodes, SPEC, EVERYTHING, Limit(500))


def test_the_channels_of_swin_and_of_tokens_come_last():
    spec = make_spec(224, 3)
    swin, tokens = node(7, 7, 96), node(197, 192)
    check_selection([swin, tokens], spec, Selection(top=2), Limit(2 * 49 + 2 * 197))
    with pytest.raises(TooManyValues):
        check_selection([swin, tokens], spec, Selection(top=2), Limit(2 * 49 + 2 * 197 - 1))
    with pytest.raises(UnknownParameter, match="channels has 96; n has channels 0 to 95"):
        check_selection([swin], spec, Selection(channels=(96,)), Limit(10**6))


def test_a_channel_that_a_layer_does_not_have_is_refused():
    with pytest.raises(UnknownParameter, match="channels has 8; n has channels 0 to 7"):
        check_selection([node(64, 2, 2), node(8, 2, 2)], SPEC, Selection(channels=(1, 8)), Limit(10**6))


@pytest.mark.parametrize("scale", ["layer", "channel", "global"])
def test_bytes_give_the_numbers_back_within_half_a_step(scale):
    others = [VALUE, 7 * VALUE[:2] + 3]
    for value, (low, high) in zip(others, ranges(others, scale), strict=True):
        found = to_bytes(value, low, high)
        again = low[:, None, None] + found / 255 * (high - low)[:, None, None]
        assert np.abs(again - value).max() <= ((high - low) / 255).max() * 0.501
        if scale == "channel":
            assert found.min(axis=(1, 2)).tolist() == [0] * len(value)
            assert found.max(axis=(1, 2)).tolist() == [255] * len(value)
    assert len({limits[0][0] for limits in ranges(others, "global")}) == 1


def test_without_a_scale_numbers_from_0_to_1_are_shown_and_others_clipped():
    ((low, high),) = ranges([VALUE], "none")
    np.testing.assert_array_equal(
        to_bytes(VALUE, low, high), np.rint(VALUE.clip(0, 1) * np.float32(255)).astype(np.uint8)
    )


def test_a_constant_channel_becomes_0():
    value = np.full((2, 3, 3), 5, np.float32)
    ((low, high),) = ranges([value], "channel")
    assert not to_bytes(value, low, high).any()


def test_statistics_are_numpys():
    value = VALUE.copy()
    value[2] = 0
    value[3, 0, 0] = 0
    found = Statistics.of(value)
    assert (found.mean, found.std) == pytest.approx((value.mean(), value.std()), abs=1e-6)
    assert (found.minimum, found.maximum) == (value.min(), value.max())
    assert found.zeros == pytest.approx(21 / 120)
    assert found.dead == [2]
    assert sum(found.histogram) == value.size
    np.testing.assert_allclose(found.channels[:, 0], value.mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(found.channels[:, 4], (value == 0).mean(axis=(1, 2)), atol=1e-6)
