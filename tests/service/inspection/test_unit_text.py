import re

import numpy as np
import pytest

from export.predictor import Predictor
from service.inspection.unit_text import unit_text
from service.inspection.units import inspect_unit


@pytest.fixture(scope="module")
def text(lenet_artifact):
    predictor = Predictor.open(lenet_artifact)
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 1), dtype=np.uint8)
    return lambda layer, *index: unit_text(inspect_unit(predictor, image, layer, index))


def number(text: str, name: str) -> float:
    return float(re.search(rf"{name} ([-+.\de]+)", text)[1])


def test_a_small_window_is_a_table_whose_products_add_up(text):
    shown = text("conv1", 2, 0, 7)
    rows = [line.split("|") for line in shown.splitlines() if "|" in line]
    assert [row[0].split().count(".") for row in rows] == [5, 5, 0, 0, 0]  # two rows of padding
    products = sum(float(one) for row in rows for one in row[2].split())
    assert products + number(shown, "bias") == pytest.approx(number(shown, "result"), abs=25 * 5e-4)
    assert number(shown, "result") == number(shown, "served")
    assert "rows 0 to 2, columns 5 to 9 and padding" in shown
    assert "then relu (Relu)" in shown


def test_many_terms_are_the_largest_and_the_sum_of_the_others(text):
    shown = text("fc.0", 4)
    terms = [float(one) for one in re.findall(r"^    [\d a-z]+: ([-+.\de]+)$", shown, flags=re.MULTILINE)]
    assert len(terms) == 9
    assert abs(terms[0]) == max(map(abs, terms[:8]))
    assert "392 others" in shown
    assert sum(terms) + number(shown, "bias") == pytest.approx(number(shown, "result"), abs=1e-5)


def test_channels_of_a_deep_window_are_summed(text):
    shown = text("conv2", 3, 5, 7)
    assert len(re.findall(r"^    channel \d: ", shown, flags=re.MULTILINE)) == 6


@pytest.mark.parametrize(
    ("layer", "index", "formula"), [("probabilities", (3,), "exp(x)"), ("relu", (0, 0, 0), "max(x, 0)")]
)
def test_formulas_are_shown(text, layer, index, formula):
    assert formula in text(layer, *index)
    assert "difference" in text(layer, *index)


def test_a_pixel_is_its_value_alone(text):
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 1), dtype=np.uint8)
    assert text("image", 5, 14, 0).splitlines()[1:] == [f"value {image[5, 14, 0]}"]
