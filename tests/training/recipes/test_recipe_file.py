"""`--recipe FILE` and `--print-recipe`."""

import json
from pathlib import Path

import pytest

from models.checkpoint.directory import load_checkpoint
from tests.conftest import run_command as run

pytestmark = pytest.mark.usefixtures("own_directory")
DIGITS = ["train", "lenet", "--data", "digits"]


@pytest.mark.usefixtures("without_pictures")
def test_a_recipe_is_printed_read_back_and_overridden(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*DIGITS, "--optimizer", "sgd", "--ema", "0.9", "--print-recipe") == 0
    printed = capsys.readouterr().out
    assert not Path("runs").exists()
    Path("recipe.json").write_text(printed)
    assert run(*DIGITS, "--recipe", "recipe.json", "--epochs", "1", "--seed", "7") == 0
    config = json.loads(Path("runs/lenet-digits/config.json").read_text())
    assert config["recipe"] == {**json.loads(printed), "epochs": 1, "seed": 7}
    capsys.readouterr()
    assert run(*DIGITS, "--recipe", "runs/lenet-digits/config.json", "--print-recipe") == 0
    assert json.loads(capsys.readouterr().out) == config["recipe"]


@pytest.mark.usefixtures("without_pictures")
def test_a_run_that_began_with_weights_is_not_repeated_without_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*DIGITS, "--epochs", "1", "--out", "base") == 0
    assert run(*DIGITS, "--epochs", "1", "--weights", "base", "--out", "tuned") == 0
    again = [*DIGITS, "--recipe", "tuned/config.json"]
    assert run(*again) == 2
    assert "tuned/config.json is of a run that began with the weights 'base'" in capsys.readouterr().err
    assert run(*again, "--weights", "base", "--out", "again") == 0
    first, second = (Path(name, "model.safetensors").read_bytes() for name in ("tuned", "again"))
    assert first == second
    capsys.readouterr()
    assert run(*again, "--print-recipe") == 0
    assert json.loads(capsys.readouterr().out) == load_checkpoint(Path("tuned")).config.recipe


def test_weights_that_are_told_otherwise_are_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.json").write_text('{"recipe": {"epochs": 1}, "weights": "theirs"}')
    assert run(*DIGITS, "--recipe", "x.json") == 2
    assert "began with the weights 'theirs'" in capsys.readouterr().err


def test_a_recipe_file_that_is_none_is_a_bad_argument(capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.json").write_text("[]")
    assert run(*DIGITS, "--recipe", "x.json") == 2
    assert "x.json is not a recipe" in capsys.readouterr().err
