"""Every option of the loop: resumed bit for bit, and doing what it says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.images.input_spec import InputSpec
from tests.training.interruption import interrupt_after
from tests.training.tiny_runs import RECIPE, same, tiny, train
from training.data.splits import Splits
from training.events import EpochFinished, Event, StepFinished, ignore_events
from training.loop.fit import fit
from training.loop.learner import make_learner, train_step
from training.loop.resume import read_state
from training.optim.ema import ExponentialMovingAverage
from training.optim.freezing import count_trainable_layers, parameter_layers, set_trainable_layers
from training.recipes.recipe import Recipe

EVERYTHING: dict[str, Any] = {
    "schedule": "cosine",
    "warmup_epochs": 0.5,
    "clip_norm": 1.0,
    "ema": 0.9,
    "label_smoothing": 0.1,
    "mixup": 0.2,
    "cutmix": 1.0,
    "rotation": 10.0,
    "reflect": True,
    "erasing": 0.3,
    "crop": 0.5,
    "freeze_epochs": 1,
    "unfreeze_epochs": 1,
    "channels_last": True,
    "precision": "bf16",
    "compile": True,
}


@pytest.fixture(autouse=True)
def eager_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile without the minute that its C++ takes."""
    compiler = torch.compile
    monkeypatch.setattr("torch.compile", lambda module: compiler(module, backend="eager"))


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_with_every_option_a_stopped_run_resumes_to_the_same_bits(
    stop: int, optimizer: str, digits: tuple[InputSpec, Splits], tmp_path: Path
) -> None:
    recipe = RECIPE.override({**EVERYTHING, "epochs": 4, "optimizer": optimizer})  # all layers learn in two of them
    missing = [name for name, value in Recipe().to_json().items() if value in (0, False) and not recipe.to_json()[name]]
    assert missing == ["seed"]
    whole = train(digits, tmp_path / "whole", recipe)
    with pytest.raises(KeyboardInterrupt):
        train(digits, tmp_path / "parts", recipe, report=interrupt_after(stop + 1, step=2))
    torch.rand(5)
    state = read_state(tmp_path / "parts")
    assert state.epoch == stop and Recipe(**state.recipe) == recipe
    assert same(whole, train(digits, tmp_path / "parts", recipe, state=state))


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "learning_rate": 0.05},
        {"schedule": "cosine", "warmup_epochs": 1.0},
        {"ema": 0.9},
        {"clip_norm": 0.5},
        {"mixup": 0.2, "cutmix": 1.0},
        {"rotation": 10.0, "erasing": 0.2},
    ],
)
def test_each_option_learns(settings: dict[str, Any], digits: tuple[InputSpec, Splits], tmp_path: Path) -> None:
    result = train(digits, tmp_path, RECIPE.override({"epochs": 20, "learning_rate": 1e-2, **settings}))
    assert max(line.validation_accuracy for line in result.history) > 0.5


@pytest.mark.parametrize(
    ("settings", "first_learning"),
    [
        ({"freeze_epochs": 2}, [5, 5, 0, 0]),
        ({"freeze_epochs": 1, "unfreeze_epochs": 2}, [5, 5, 1, 0]),  # of layers 0, 1 and 5 one, one, two and all
        ({"unfreeze_epochs": 2}, [5, 1, 0, 0]),
    ],
)
def test_what_is_frozen_does_not_change_and_the_rest_does(
    settings: dict[str, int], first_learning: list[int], digits: tuple[InputSpec, Splits], tmp_path: Path
) -> None:
    network = tiny()
    weights = [{name: tensor.clone() for name, tensor in network.state_dict().items()}]

    def watch(event: Event) -> None:
        if isinstance(event, EpochFinished):
            weights.append({name: tensor.clone() for name, tensor in network.state_dict().items()})

    recipe = RECIPE.override({"epochs": 4, "weight_decay": 0.5, **settings})
    fit(network, digits[1], recipe, tmp_path, watch, spec=digits[0])
    for before, after, first in zip(weights, weights[1:], first_learning, strict=False):
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert moved == {name for name in before if int(name.split(".")[1]) >= first}
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_layers_join_in_equal_parts() -> None:
    def counts(freeze: int, unfreeze: int) -> list[int]:
        epochs = range(1, 7)
        return [count_trainable_layers(20, n, freeze_epochs=freeze, unfreeze_epochs=unfreeze) for n in epochs]

    assert counts(0, 0) == [20] * 6
    assert counts(2, 0) == [1, 1, 20, 20, 20, 20]
    assert counts(1, 3) == [1, 5, 10, 15, 20, 20]
    assert counts(0, 4) == [4, 8, 12, 16, 20, 20]
    assert counts(6, 1) == [1] * 6


def test_the_last_layer_is_the_one_defined_last() -> None:
    network = tiny()
    assert parameter_layers(network)[-1] is network.get_submodule("layers.5")
    set_trainable_layers(network.train(), 1)
    assert not network.get_submodule("layers.1").training and network.get_submodule("layers.4").training


def test_what_a_network_has_frozen_itself_stays_so() -> None:
    network = tiny()
    own = network.get_submodule("layers.0").weight.requires_grad_(False)
    for count in (1, 3):
        set_trainable_layers(network.train(), count, fixed={id(own)})
        assert not own.requires_grad
    assert sum(not parameter.requires_grad for parameter in network.parameters()) == 1


def test_an_answer_in_which_nothing_learns_is_refused(digits: tuple[InputSpec, Splits], tmp_path: Path) -> None:
    network = tiny()
    network.register_module("unused", nn.Linear(2, 2))  # defined last, so it learns alone at first
    with pytest.raises(ValueError, match="no trainable parameter affects the network's output; freeze fewer"):
        fit(network, digits[1], RECIPE.override({"freeze_epochs": 1}), tmp_path, ignore_events, spec=digits[0])


def test_a_layer_that_the_network_has_frozen_itself_is_not_the_last(
    digits: tuple[InputSpec, Splits], tmp_path: Path
) -> None:
    network = tiny()
    network.get_submodule("layers.5").requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    recipe = RECIPE.override({"epochs": 1, "freeze_epochs": 1})
    fit(network, digits[1], recipe, tmp_path, ignore_events, spec=digits[0])
    moved = {name for name, tensor in network.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved == {"layers.1.weight", "layers.1.bias"}


def test_the_average_is_the_hand_worked_one() -> None:
    network = nn.BatchNorm1d(1)
    average = ExponentialMovingAverage(network, 0.5)
    wanted = {"weight": 1.0, "running_mean": 0.0}
    for step in range(1, 12):
        decay = min(0.5, (1 + step) / (10 + step))
        with torch.no_grad():
            network.weight.fill_(float(step))
            network.running_mean.fill_(-float(step))
            network.num_batches_tracked += 1
        average.update()
        wanted = {"weight": decay * wanted["weight"] + (1 - decay) * step,
                  "running_mean": decay * wanted["running_mean"] - (1 - decay) * step}  # fmt: skip
    found = average.network.state_dict()
    assert {name: float(found[name]) for name in wanted} == pytest.approx(wanted)
    assert int(found["num_batches_tracked"]) == 11


def test_what_is_kept_is_the_average(digits: tuple[InputSpec, Splits], tmp_path: Path) -> None:
    network = tiny()
    result = fit(
        network, digits[1], RECIPE.override({"ema": 0.99, "epochs": 1}), tmp_path, ignore_events, spec=digits[0]
    )
    state = read_state(tmp_path)
    assert state.average is not None and state.average["steps"] == 7
    assert torch.equal(result.weights["layers.5.weight"], state.average["weights"]["layers.5.weight"])
    assert not torch.equal(result.weights["layers.5.weight"], network.state_dict()["layers.5.weight"])


def test_gradients_are_no_longer_than_the_limit(digits: tuple[InputSpec, Splits]) -> None:
    learner = make_learner(tiny(), digits[0], RECIPE.override({"clip_norm": 0.01}), steps=1)
    train_step(learner, digits[1].train.images[:16], digits[1].train.labels[:16])
    lengths = [parameter.grad.norm() for parameter in learner.network.parameters() if parameter.grad is not None]
    assert torch.stack(lengths).norm() == pytest.approx(0.01, rel=1e-3)


def test_a_bad_loss_is_found_within_the_epoch(
    digits: tuple[InputSpec, Splits], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.loop.trainer.LOSS_CHECK_INTERVAL", 3)
    network, steps = tiny(), []

    def spoil(event: Event) -> None:
        if isinstance(event, StepFinished):
            steps.append((event.epoch, event.step))
            if steps[-1] == (2, 1):
                with torch.no_grad():
                    next(network.parameters()).fill_(torch.nan)

    with pytest.raises(
        ValueError, match=r"nan at step 9 \(epoch 2, its step 2\).*after epoch 1\. Resumed, .*--weights .*resume\.pt"
    ):
        fit(network, digits[1], RECIPE, tmp_path, spoil, spec=digits[0])
    assert steps[-1] == (2, 3)
    assert read_state(tmp_path).epoch == 1


def test_a_run_of_other_processes_is_not_gone_on_with(digits: tuple[InputSpec, Splits], tmp_path: Path) -> None:
    train(digits, tmp_path, RECIPE.override({"epochs": 1}))
    state = read_state(tmp_path)
    with pytest.raises(ValueError, match="the run was by 2 processes; 1 cannot continue it"):
        train(digits, tmp_path, state=replace(state, generators=state.generators * 2))
