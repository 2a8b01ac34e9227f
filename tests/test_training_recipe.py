"""Recipes: checked, complete, and the source of the command's flags."""

from dataclasses import fields
from typing import Any

import pytest

from models.registry import NETWORKS
from training.options import parse_options
from training.recipe import Recipe, default_recipe


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("weight_decay", -0.1),
        ("label_smoothing", 1.0),
        ("shift", -1),
        ("validation_fraction", 1.0),
        ("seed", -1),
        ("optimizer", "sgd"),
        ("precision", "fp8"),
        ("device", "tpu"),
        ("device", "cuda:x"),
    ],
)
def test_a_bad_value_is_quoted(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} is {value!r}; it must be "):
        Recipe(**{name: value})


def test_every_field_has_a_line_of_help() -> None:
    for field in fields(Recipe):
        assert f"        {field.name}: " in (Recipe.__doc__ or "")


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="a recipe has no 'lr'; it has epochs"):
        Recipe().override({"lr": 1})


def test_a_recipe_survives_json() -> None:
    recipe = Recipe(epochs=3, flip=True)
    assert Recipe(**recipe.to_json()) == recipe


@pytest.mark.parametrize("model", NETWORKS)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_network_has_a_default_for_any_data(model: str, mode: Any) -> None:
    for images in (10, 1000, 60_000):
        assert default_recipe(model, "my-folder", images=images, size=(32, 32), mode=mode).epochs >= 20


@pytest.mark.parametrize(
    ("model", "words", "options"),
    [
        ("lenet", ["hidden=84"], {"hidden": (84,)}),
        ("lenet", ["hidden=120,84"], {"hidden": (120, 84)}),
        ("simple_cnn", ["dropout=0.25"], {"dropout": 0.25}),
        ("resnet18", ["stem=small"], {"stem": "small"}),
    ],
)
def test_options_are_read_as_the_network_takes_them(model: str, words: list[str], options: dict[str, Any]) -> None:
    assert parse_options(model, words) == options


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hidden"], "--option is 'hidden'; it must be key=value"),
        (["hiden=3"], "lenet has no option 'hiden'; it has hidden"),
        (["classes=3"], "lenet has no option 'classes'"),
        (["hidden=3", "hidden=4"], "--option hidden is given twice"),
    ],
)
def test_a_bad_option_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_options("lenet", words)
