"""Pixels in JSON: what is regular and in range becomes an array; nothing else costs memory or passes."""

import json
import tracemalloc

import numpy as np
import pytest

from service.errors import MalformedBody
from service.http.json_pixels import read_pixels
from service.settings import Limit


@pytest.mark.parametrize("shape", [(256,), (4, 64), (2, 8, 4, 4), (1, 1, 1, 256), (0,), (2, 0)])
def test_arrays_of_any_shape_come_back(shape: tuple[int, ...]) -> None:
    pixels = np.resize(np.arange(256), shape)
    found = read_pixels(json.loads(json.dumps(pixels.tolist())), "data", LIMIT)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels)


LIMIT = Limit(8)


def nested(depth: int, *innermost: int) -> list[object]:
    data: list[object] = [*innermost]
    for _ in range(depth - 1):
        data = [data]
    return data


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([[256]], "pixels must be from 0 to 255, got 256 to 256"),
        ([[-1, 3]], "got -1 to 3"),
        ([10**30], "pixels must be from 0 to 255"),
        ([[0.5]], "images must be whole numbers, got float"),
        ("abc", "images must be an array of whole numbers, got str"),
        (None, "got NoneType"),
        ({"a": 1}, "got dict"),
        ([True], "got bool"),
        ([1, None], "got NoneType"),
        ([[1, 2], [3]], "rows of different lengths"),
        ([[1], 2], "numbers and rows side by side"),
        ([1, [2]], "got list"),
        ([[[1]], [2]], "numbers and rows side by side"),
        (nested(9, 1), "deeper than the limit, which is 8"),
        (nested(900), "deeper than the limit, which is 8"),
    ],
)
def test_everything_else_is_refused(data: object, says: str) -> None:
    with pytest.raises(MalformedBody, match=says):
        read_pixels(data, "images", LIMIT)


def test_a_long_text_among_many_short_ones_takes_no_memory() -> None:
    data = ["x"] * 10_000 + ["y" * 100_000]  # numpy would make 10,000 texts of 100,000 characters
    tracemalloc.start()
    try:
        with pytest.raises(MalformedBody, match="got str"):
            read_pixels(data, "images", LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
