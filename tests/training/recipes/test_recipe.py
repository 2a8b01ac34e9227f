"""Recipes: checked, complete, and the source of the command's flags."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import nn

from models.networks.registry import NETWORKS
from training.cli.options import parse_options
from training.optim.schedules import make_optimizer, make_schedule
from training.recipes.defaults import default_recipe
from training.recipes.recipe import Recipe, read_recipe
from training.run.plan import TrainingRequest, plan_recipe


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", -1),
        ("batch_size", 1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("weight_decay", -0.1),
        ("label_smoothing", 1.0),
        ("shift", -1),
        ("validation_fraction", 1.0),
        ("seed", -1),
        ("optimizer", "adam"),
        ("precision", "fp8"),
        ("schedule", "step"),
        ("momentum", 1.0),
        ("warmup_epochs", 20),
        ("clip_norm", -1.0),
        ("ema", 1.0),
        ("mixup", -0.1),
        ("cutmix", float("inf")),
        ("rotation", 181.0),
        ("erasing", 1.5),
        ("crop", 1.5),
        ("freeze_epochs", -1),
        ("unfreeze_epochs", -1),
        ("initial_scale", 0.0),
        ("initial_scale", 1.5),
        ("epochs", "3"),
        ("flip", 1),
        ("ema", True),
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


@pytest.mark.parametrize("nested", [False, True])
def test_a_recipe_is_read_from_its_json_and_from_a_config(nested: bool, tmp_path: Path) -> None:
    fields = {"epochs": 3, "mixup": 0.2}
    (tmp_path / "x.json").write_text(json.dumps({"model": "x", "recipe": fields} if nested else fields))
    assert read_recipe(tmp_path / "x.json") == fields


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "x.json is not a recipe: Expecting"),
        ("[]", "x.json is not a recipe: it must be a JSON object"),
        ('{"lr": 1}', "x.json: a recipe has no 'lr'"),
        ('{"epochs": -1}', "x.json: epochs is -1; it must be at least 0"),
        ('{"shift": 1.5}', "x.json: shift is 1.5; it must be a whole number"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recipe(tmp_path / "x.json")


@pytest.mark.parametrize("schedule", ["onecycle", "cosine"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_the_rate_rises_in_the_warm_up_and_then_falls_to_nothing(schedule: Any, optimizer: Any) -> None:
    recipe = Recipe(epochs=10, warmup_epochs=2, schedule=schedule, optimizer=optimizer, learning_rate=0.1)
    made = make_optimizer(nn.Sequential(nn.Linear(2, 2), nn.Conv2d(2, 2, 1)), recipe)
    rates = made_rates(made, make_schedule(made, recipe, steps=100), 100)
    assert 17 <= max(range(100), key=rates.__getitem__) <= 21 and max(rates) == pytest.approx(0.1)
    assert rates[0] < 0.02 and rates[99] < 1e-3
    assert rates[:18] == sorted(rates[:18]) and rates[21:] == sorted(rates[21:], reverse=True)


def made_rates(optimizer: Any, schedule: Any, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


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


def test_a_rise_of_one_step_is_no_division_by_nothing() -> None:
    recipe = Recipe(epochs=4, warmup_epochs=1.0)
    optimizer = make_optimizer(nn.Linear(2, 2), recipe)
    schedule = make_schedule(optimizer, recipe, steps=4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step() if len(rates) < 4 else None
    assert max(rates) <= recipe.learning_rate and all(rate > 0 for rate in rates)


def test_the_first_beta_of_adamw_goes_against_the_rate() -> None:
    recipe = Recipe(epochs=10)
    made = make_optimizer(nn.Linear(2, 2), recipe)
    schedule, betas = make_schedule(made, recipe, steps=10), []
    for _ in range(10):
        betas.append(made.param_groups[0]["betas"][0])
        made.step()
        schedule.step()
    assert betas[0] == pytest.approx(0.95) == betas[-1] and betas.index(min(betas)) == 2 and min(betas) == 0.85


def test_epochs_that_leave_none_for_the_whole_network_are_refused(tmp_path: Path) -> None:
    assert Recipe(epochs=4, freeze_epochs=1, unfreeze_epochs=2).unfreeze_epochs == 2
    wanted = (
        "unfreeze_epochs is 3; it must be 0 or below 3, or the first layers would never train in 4 epochs, 1 of which"
    )
    with pytest.raises(ValueError, match=wanted):
        Recipe(epochs=4, freeze_epochs=1, unfreeze_epochs=3)
    (tmp_path / "x.json").write_text('{"unfreeze_epochs": 25, "freeze_epochs": 3}')  # the epochs are given elsewhere
    assert read_recipe(tmp_path / "x.json") == {"unfreeze_epochs": 25, "freeze_epochs": 3}


def test_a_folder_is_trained_as_a_folder_whatever_its_name(tmp_path: Path) -> None:
    for name in ("mnist", "photos"):
        for label in ("a", "b"):
            (tmp_path / name / label).mkdir(parents=True)
            for index in range(10):
                Image.new("L", (28, 28), index).save(tmp_path / name / label / f"{index}.png")
    assert plan_recipe(TrainingRequest("lenet", str(tmp_path / "mnist"))) == plan_recipe(
        TrainingRequest("lenet", str(tmp_path / "photos"))
    )


def test_fine_tuning_freezes_no_epoch_of_one_unless_it_is_told_to() -> None:
    def frozen(**overrides: Any) -> int:
        return plan_recipe(TrainingRequest("lenet", "digits", overrides=overrides, weights="any")).freeze_epochs

    assert [frozen(), frozen(epochs=2), frozen(epochs=1), frozen(epochs=0)] == [1, 1, 0, 0]
    assert frozen(epochs=1, freeze_epochs=1) == 1
