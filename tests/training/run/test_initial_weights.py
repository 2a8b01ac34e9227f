"""`convscope train --weights`: fine-tuning, and taking weights as they are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image

from models.checkpoint.directory import load_checkpoint
from tests.conftest import make_checkpoint
from tests.conftest import run_command as run
from tests.training.interruption import interrupt_after
from training.events import Event, RunStarted
from training.loop.resume import read_state
from training.run.plan import TrainingRequest
from training.run.train import train_checkpoint

pytestmark = pytest.mark.usefixtures("own_directory")
DIGITS = ("train", "lenet", "--data", "digits")


def folder_of(path: Path, classes: int, size: int) -> Path:
    """Plain squares, a grey level a class, with a trace of noise."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 12), ("test", 4)):
        for label in range(classes):
            directory = path / split / f"class{label}"
            directory.mkdir(parents=True)
            for index in range(count):
                noise = torch.randint(20, (size, size, 3), generator=generator)
                pixels = (noise + 230 * label // max(1, classes - 1)).to(torch.uint8).numpy()
                Image.fromarray(pixels).save(directory / f"{index}.png")
    return path


def test_weights_of_a_checkpoint_are_taken_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    first = train_checkpoint(TrainingRequest("lenet", "digits", overrides={"epochs": 6}), out=Path("first"))
    assert run(*DIGITS, "--weights", "first", "--epochs", "0", "--out", "again") == 0
    before, after = load_checkpoint(first), load_checkpoint(Path("again"))
    for name, tensor in before.network.state_dict().items():
        assert torch.equal(tensor, after.network.state_dict()[name])
    assert after.config.metrics["test"]["accuracy"] == before.config.metrics["test"]["accuracy"]
    assert after.config.temperature == pytest.approx(before.config.temperature)
    assert after.config.input == before.config.input
    assert after.config.weights["name"] == "first"
    text = capsys.readouterr().out
    assert "initial weights: 10 tensors loaded" in text
    assert not Path("again/curves.png").exists()


@pytest.mark.usefixtures("without_pictures")
def test_what_was_learnt_helps_and_a_new_last_layer_is_said() -> None:
    before = train_checkpoint(TrainingRequest("lenet", "digits", overrides={"epochs": 12}), out=Path("digits"))
    data = str(folder_of(Path("squares"), classes=3, size=28))
    events: list[Event] = []
    out = train_checkpoint(
        TrainingRequest("simple_cnn", data, size=32, overrides={"epochs": 1, "batch_size": 8}),
        out=Path("scratch"),
        report=events.append,
    )
    events.clear()
    train_checkpoint(
        TrainingRequest(
            "simple_cnn",
            str(folder_of(Path("five"), classes=5, size=28)),
            size=32,
            weights=str(out),
            overrides={"epochs": 2, "batch_size": 8},
        ),
        out=Path("tuned"),
        report=events.append,
    )
    started = next(event for event in events if isinstance(event, RunStarted))
    assert started.weights == (
        "8 tensors loaded; fc2.weight, fc2.bias left as initialised: the file's head is for 3 classes"
    )
    tuned, scratch = load_checkpoint(Path("tuned")).config, load_checkpoint(out).config
    assert tuned.input.mean == scratch.input.mean  # the pixels keep the meaning that the weights learnt
    assert tuned.recipe["freeze_epochs"] == 1
    assert tuned.recipe["learning_rate"] < scratch.recipe["learning_rate"]
    again = train_checkpoint(
        TrainingRequest("lenet", "digits", weights=str(before), overrides={"epochs": 4}), out=Path("more")
    )
    lines = [json.loads(line) for line in (again / "log.jsonl").read_text().splitlines()]
    fresh = [json.loads(line) for line in (before / "log.jsonl").read_text().splitlines()]
    assert lines[0]["validation_loss"] < fresh[1]["validation_loss"] / 2


@pytest.mark.usefixtures("without_pictures")
def test_a_frozen_epoch_changes_the_last_layer_alone() -> None:
    out = train_checkpoint(TrainingRequest("lenet", "digits", overrides={"epochs": 1}), out=Path("first"))
    train_checkpoint(
        TrainingRequest("lenet", "digits", weights=str(out), overrides={"epochs": 1, "freeze_epochs": 1}),
        out=Path("frozen"),
    )
    before = load_checkpoint(out).network.state_dict()
    after = load_checkpoint(Path("frozen")).network.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"fc.2.weight", "fc.2.bias"}


@pytest.mark.usefixtures("without_pictures")
def test_a_run_begun_before_a_setting_existed_goes_on() -> None:
    with pytest.raises(KeyboardInterrupt):
        train_checkpoint(
            TrainingRequest("lenet", "digits", overrides={"epochs": 2}), out=Path("cut"), report=interrupt_after(1)
        )
    state = read_state(Path("cut"))
    replace(state, recipe={name: value for name, value in state.recipe.items() if name != "erasing"}).write(Path("cut"))
    assert (
        load_checkpoint(
            train_checkpoint(TrainingRequest("lenet", "digits"), out=Path("cut"), resume=True)
        ).config.recipe["erasing"]
        == 0
    )


@pytest.mark.usefixtures("without_pictures")
def test_a_resumed_run_needs_the_weights_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    train_checkpoint(TrainingRequest("lenet", "digits", overrides={"epochs": 1}), out=Path("base"))
    overrides = {"epochs": 3, "freeze_epochs": 1}
    whole = train_checkpoint(TrainingRequest("lenet", "digits", weights="base", overrides=overrides), out=Path("whole"))

    with pytest.raises(KeyboardInterrupt):
        train_checkpoint(
            TrainingRequest("lenet", "digits", weights="base", overrides=overrides),
            out=Path("cut"),
            report=interrupt_after(2),
        )
    Path("base").rename("gone")
    cut = train_checkpoint(TrainingRequest("lenet", "digits"), out=Path("cut"), resume=True)
    expected, found = load_checkpoint(whole), load_checkpoint(cut)
    for name, tensor in expected.network.state_dict().items():
        assert torch.equal(tensor, found.network.state_dict()[name])
    assert found.config.weights == expected.config.weights
    assert found.config.input == expected.config.input


@pytest.mark.usefixtures("without_pictures")
def test_a_state_dict_of_torchvisions_keeps_its_predictions(tmp_path: Path) -> None:
    """The reference is torchvision's own network and preprocessing on the same files."""
    torch.manual_seed(3)
    network = torchvision.models.squeezenet1_1(num_classes=3).eval()
    with torch.no_grad():  # random weights answer one class for everything; a spread last layer does not
        network.classifier[1].weight.normal_(std=0.5)
    torch.save(network.state_dict(), "w.pth")
    data = folder_of(Path("squares"), classes=3, size=240)
    out = train_checkpoint(
        TrainingRequest("squeezenet1_1", str(data), weights="w.pth", overrides={"epochs": 0}), out=Path("run")
    )
    preset = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    files = sorted((data / "test").glob("*/*.png"))
    with torch.no_grad():
        guesses = [int(network(preset(Image.open(file))[None]).argmax()) for file in files]
    right = sum(guess == int(file.parent.name[-1]) for guess, file in zip(guesses, files, strict=True))
    assert load_checkpoint(out).config.metrics["test"]["accuracy"] == right / len(files)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--weights", "absent.pth"), 1, "--weights absent.pth: no such file"),
        (("--epochs", "0"), 2, "epochs is 0; it must be at least 1, or --weights be given"),
        (("--weights", "other", "--epochs", "2"), 1, "other/model.safetensors has no 'conv1.weight'"),
        (("--weights", "three", "--epochs", "0"), 1, "with --epochs 0 that layer would stay random"),
    ],
)
def test_weights_that_do_not_fit(
    words: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_checkpoint(Path("other"), model="mlp")
    make_checkpoint(Path("three"), classes=3)
    assert run(*DIGITS, *words) == code
    printed = capsys.readouterr().err
    assert message in printed.replace("\n", " ")
    assert not list(Path().glob("runs/*/model.safetensors"))


@pytest.mark.usefixtures("without_pictures")
def test_a_last_layer_for_other_classes_is_said_and_not_taken_under_their_names() -> None:
    data = folder_of(Path("squares"), classes=2, size=28)
    first = train_checkpoint(TrainingRequest("lenet", str(data), overrides={"epochs": 1}), out=Path("first"))
    for split in ("train", "test"):
        (data / split / "class0").rename(data / split / "other")
    with pytest.raises(ValueError, match="its last layer knows class0, class1, not class1, other; with --epochs 0"):
        train_checkpoint(
            TrainingRequest("lenet", str(data), overrides={"epochs": 0}, weights=str(first)), out=Path("second")
        )
    events: list[Event] = []
    again = TrainingRequest("lenet", str(data), overrides={"epochs": 1}, weights=str(first))
    train_checkpoint(again, out=Path("third"), report=events.append)
    assert "not class1, other, and is trained anew" in next(
        event.weights for event in events if isinstance(event, RunStarted)
    )


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_an_unfinished_run_gives_its_weights_and_few_images_fit_no_temperature(ema: float) -> None:
    learning = {"epochs": 3, "ema": ema}
    with pytest.raises(KeyboardInterrupt):
        train_checkpoint(
            TrainingRequest("lenet", "digits", overrides=learning), out=Path("stopped"), report=interrupt_after(1)
        )
    few = {"epochs": 0, "validation_fraction": 0.02}
    out = train_checkpoint(
        TrainingRequest("lenet", "digits", overrides=few, weights="stopped/resume.pt"), out=Path("again")
    )
    state = read_state(Path("stopped"))
    learnt = state.weights if state.average is None else state.average["weights"]
    checkpoint = load_checkpoint(out)
    assert all(torch.equal(tensor, learnt[name]) for name, tensor in checkpoint.network.state_dict().items())
    assert checkpoint.config.temperature == 1.0 and checkpoint.config.dataset["counts"]["validation"] < 50
