"""The loop: it learns, repeats, resumes bit for bit, and stops for a loss that is no number."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from models.images.input_spec import InputSpec
from models.networks.registry import NETWORKS, build_network
from tests.registered import HEAVY, in_acceptance
from tests.training.interruption import interrupt_after
from tests.training.tiny_runs import CPU, RECIPE, Tiny, same, tiny, train
from training.data.splits import Splits
from training.evaluate.evaluation import logits_of
from training.events import Event, StepFinished
from training.loop.fit import fit
from training.loop.learner import make_forward, make_learner, train_step
from training.loop.resume import fork_rng, read_state
from training.optim.schedules import make_optimizer
from training.recipes.recipe import Recipe


# The stripes' networks tell textures apart, not images; tests/models/networks/test_stripes.py trains them on stripes.
@pytest.mark.parametrize("name", in_acceptance(HEAVY, [name for name in NETWORKS if not name.startswith("stripes")]))
def test_every_network_overfits_one_batch(name: str) -> None:
    size = 8 if name in ("resnet18", "resnet34", "resnet50") else NETWORKS[name].sizes[0]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, size, size, 1), dtype=torch.uint8, generator=generator)
    labels = torch.arange(8) % 4
    spec = InputSpec(mode="L", height=size, width=size, resize=(size, size), background=(0,), mean=(0.5,), std=(0.289,))
    with fork_rng(0, CPU):
        network = build_network(name, channels=1, height=size, width=size, classes=4)
        large = ("resnet18", "resnet34", "resnet50", "vgg11", "vgg13", "vgg16")
        steps = 250 if name == "lenet1998" else 10 if name in large else 25
        recipe = Recipe(learning_rate=1e-2 if name == "lenet1998" else 3e-3, device="cpu")
        learner = make_learner(network, spec, recipe, steps=steps)
        losses = [float(train_step(learner, images, labels)[0]) / 8 for _ in range(steps)]
    assert losses[0] > 1 and losses[-1] < 0.2


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    digits: tuple[InputSpec, Splits], tmp_path: Path
) -> None:
    first = train(digits, tmp_path)
    assert same(first, train(digits, tmp_path))
    assert not same(first, train(digits, tmp_path, RECIPE.override({"seed": 1})))


@pytest.mark.parametrize("stop", [(1, 1), (1, None), (2, 3), (2, None), (3, None)])
def test_a_run_stopped_anywhere_resumes_to_the_same_bits(
    stop: tuple[int, int | None], digits: tuple[InputSpec, Splits], tmp_path: Path
) -> None:
    whole = train(digits, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(digits, tmp_path / "parts", report=interrupt_after(stop[0], step=stop[1]))
    torch.rand(5)  # the global generator moves on in between
    state = read_state(tmp_path / "parts")
    assert state.epoch == (stop[0] if stop[1] is None else stop[0] - 1)
    assert same(whole, train(digits, tmp_path / "parts", state=state))
    log = [json.loads(line) for line in (tmp_path / "parts/log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2, 3]


def test_the_global_generator_is_as_before(digits: tuple[InputSpec, Splits], tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(digits, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(
    digits: tuple[InputSpec, Splits], tmp_path: Path
) -> None:
    network = tiny()

    def spoil(event: Event) -> None:
        if isinstance(event, StepFinished) and (event.epoch, event.step) == (2, 3):
            with torch.no_grad():
                next(network.parameters()).fill_(torch.nan)

    spec, data = digits
    with pytest.raises(
        ValueError, match=r"loss is nan at step 11 \(epoch 2, its step 4\); .*resume.pt holds the state after"
    ):
        fit(network, data, RECIPE, tmp_path, spoil, spec=spec)
    state = read_state(tmp_path)
    assert state.epoch == 1
    assert all(tensor.isfinite().all() for tensor in state.weights.values())


def test_the_weights_after_the_last_epoch_are_kept(digits: tuple[InputSpec, Splits], tmp_path: Path) -> None:
    # The large rate makes the last epoch the worse one; whoever wants another stops there.
    result = train(digits, tmp_path, RECIPE.override({"epochs": 2, "learning_rate": 0.3, "warmup_epochs": 1.9}))
    assert result.history[1].validation_loss > result.history[0].validation_loss
    logits = logits_of(make_forward(Tiny.holding(result.weights), digits[0], device=CPU), digits[1].validation)
    loss = torch.nn.functional.cross_entropy(logits, digits[1].validation.labels)
    assert loss.item() == pytest.approx(result.history[1].validation_loss)


def test_every_image_is_seen_once_an_epoch_and_only_training_ones_are_augmented(
    digits: tuple[InputSpec, Splits], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, data = digits
    seen: list[torch.Tensor] = []

    def watch(images: torch.Tensor, **settings: Any) -> torch.Tensor:
        seen.append(images)
        return images

    monkeypatch.setattr("training.loop.trainer.augment", watch)
    validation = data.validation.images.clone()
    train(digits, tmp_path, RECIPE.override({"epochs": 1}))
    rows = sorted(image.numpy().tobytes() for batch in seen for image in batch)
    assert rows == sorted(image.numpy().tobytes() for image in data.train.images)
    assert max(map(len, seen)) - min(map(len, seen)) <= 1
    assert torch.equal(data.validation.images, validation)


def test_biases_and_norms_are_not_decayed(digits: tuple[InputSpec, Splits]) -> None:
    network = tiny()
    learner = make_learner(network, digits[0], RECIPE, steps=1)
    decayed = {id(p) for group in learner.optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert {name for name, p in network.named_parameters() if id(p) in decayed} == {
        "layers.0.weight",
        "layers.5.weight",
    }


@pytest.mark.parametrize("name", ["swin_t", "swin_v2_t", "vit_b_16", "convnext_tiny"])
def test_tables_tokens_and_scales_are_not_decayed(name: str) -> None:
    with torch.device("meta"):  # no weights are drawn
        network = torchvision.models.get_model(name)
    groups = make_optimizer(network, Recipe(optimizer="sgd", momentum=0.0)).param_groups
    plain = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    weights = (nn.Linear, nn.Conv2d)  # and the projections within an attention
    wanted = {id(m.weight) for m in network.modules() if isinstance(m, weights)}
    wanted |= {id(m.in_proj_weight) for m in network.modules() if isinstance(m, nn.MultiheadAttention)}
    assert {id(parameter) for parameter in network.parameters()} - plain == wanted


def test_embeddings_are_not_decayed_and_words_within_words_are() -> None:
    network = nn.ModuleDict({"embedding": nn.Embedding(3, 4), "linear": nn.Linear(4, 4)})
    network.register_parameter("upscale", nn.Parameter(torch.zeros(3, 4)))
    decayed = make_optimizer(network, Recipe()).param_groups[0]["params"]
    assert {id(parameter) for parameter in decayed} == {id(network["linear"].weight), id(network.upscale)}


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"channels_last": True}, {"label_smoothing": 0.1}])
def test_other_precisions_and_layouts_learn(
    settings: dict[str, Any], digits: tuple[InputSpec, Splits], tmp_path: Path
) -> None:
    result = train(digits, tmp_path, RECIPE.override({"epochs": 20, "learning_rate": 1e-2, **settings}))
    assert result.history[-1].validation_accuracy > 0.5
    assert all(w.dtype in (torch.float32, torch.int64) for w in result.weights.values())


@pytest.mark.parametrize(
    ("more", "message"),
    [({"recipe": {"brightness": 0.1}}, "argument 'brightness'"), ({"clock": 1}, "argument 'clock'"), ({}, "'facts'")],
)
def test_a_resume_file_of_another_version_is_refused(
    more: dict[str, Any], message: str, digits: tuple[InputSpec, Splits], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(digits, tmp_path, report=interrupt_after(1))
    content = torch.load(tmp_path / "resume.pt", weights_only=True)
    if not more:
        del content["facts"]
    torch.save({**content, **more}, tmp_path / "resume.pt")
    with pytest.raises(ValueError, match=f"resume.pt was written by another version of convscope.*{message}"):
        read_state(tmp_path)


def test_a_run_from_when_an_epoch_was_chosen_can_be_gone_on_with(
    digits: tuple[InputSpec, Splits], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(digits, tmp_path, report=interrupt_after(1))
    content = torch.load(tmp_path / "resume.pt", weights_only=True)
    torch.save({**content, "best_epoch": 1, "best_weights": content["weights"]}, tmp_path / "resume.pt")
    assert read_state(tmp_path).epoch == 1


def test_a_shift_out_of_the_image_is_refused(digits: tuple[InputSpec, Splits], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shift is 8; it must be below the sides of 8x8 images"):
        train(digits, tmp_path / "run", RECIPE.override({"shift": 8}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "resume.pt does not exist; there is nothing to resume"), (b"x", "resume.pt is damaged")],
)
def test_a_resume_file_that_is_no_such_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "resume.pt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_state(tmp_path)
