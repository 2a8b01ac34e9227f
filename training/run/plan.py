"""All that is fixed before the first step of a run, and whether an interrupted run can go on with it."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.checkpoint.directory import CheckpointConfig
from models.checkpoint.initial_weights import InitialWeights
from models.checkpoint.samples import Samples
from models.images.decode import InputSpec
from models.networks.registry import input_size_for
from models.networks.spec import check_logits
from training.data.datasets import load_dataset
from training.data.raw import RawDataset
from training.data.sampling import sample_test_images
from training.data.splits import MEMORY_LIMIT_MB, Splits, prepare_splits
from training.loop.resume import RunState
from training.recipes.defaults import default_recipe
from training.recipes.recipe import Recipe

NAMED = 10  # files that are left out, in config.json
LIBRARIES = ("torch", "torchvision", "numpy", "pillow", "safetensors")


@dataclass(frozen=True)
class Plan:
    """What a run does; the configuration has no metrics yet."""

    config: CheckpointConfig
    recipe: Recipe
    data: Splits
    samples: Samples

    @property
    def left_out(self) -> int:
        """Damaged files that are not used."""
        count: int = self.config.dataset.get("left_out", {}).get("count", 0)
        return count


def make_plan(
    model: str,
    dataset: str,
    *,
    data_dir: Path | Sequence[Path] | None = None,
    download: bool = False,
    skip_bad: bool = False,
    memory_limit_mb: int = MEMORY_LIMIT_MB,
    workers: int | None = None,
    size: int | None = None,
    options: dict[str, Any] | None = None,
    overrides: dict[str, Any] | None = None,
    weights: InitialWeights | None = None,
    state: RunState | None = None,
) -> Plan:
    """Loads the data and decides the rest; see `train_checkpoint`. `state` is that of a run that is gone on with.

    Raises:
        ValueError: an unknown name, a value out of range, absent or damaged data.
    """
    raw = load_dataset(dataset, data_dir=data_dir, download=download, skip_bad=skip_bad)
    fed = _fed_size(model, raw, size)
    base = None if state is None else Recipe(**state.recipe)
    begun_with = _weights_facts(weights, state)
    recipe = _recipe(model, raw, fed, overrides or {}, base, pretrained=bool(begun_with))
    spec, data = prepare_splits(
        raw,
        size=fed,
        fraction=recipe.validation_fraction,
        seed=recipe.seed,
        memory_limit_mb=memory_limit_mb,
        workers=workers,
        like=_known_input(weights, state) if begun_with else None,
    )
    counts = {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)}
    left_out = {"left_out": {"count": len(raw.left_out), "first": list(raw.left_out[:NAMED])}} if skip_bad else {}
    duplicates = {"duplicates": raw.duplicates} if raw.duplicates else {}
    instead = {"test_folder": raw.test_folder} if raw.test_folder else {}
    config = CheckpointConfig(
        model=model,
        options=options or {},
        classes=raw.classes,
        input=spec,
        recipe=recipe.to_json(),
        dataset={"name": raw.name, "counts": counts, "sha256": raw.sha256, **instead, **duplicates, **left_out},
        weights=begun_with,
        revision=_revision(),
        versions={name: version(name) for name in LIBRARIES},
    )
    return Plan(config, recipe, data, sample_test_images(raw, data.test))


def plan_recipe(
    model: str,
    dataset: str,
    *,
    data_dir: Path | Sequence[Path] | None = None,
    download: bool = False,
    skip_bad: bool = False,
    size: int | None = None,
    overrides: dict[str, Any] | None = None,
    pretrained: bool = False,
) -> Recipe:
    """The recipe that `make_plan` would choose."""
    raw = load_dataset(dataset, data_dir=data_dir, download=download, skip_bad=skip_bad)
    return _recipe(model, raw, _fed_size(model, raw, size), overrides or {}, None, pretrained=pretrained)


def _fed_size(model: str, raw: RawDataset, size: int | None) -> tuple[int, int]:
    return (size, size) if size is not None else input_size_for(model, raw.size or (0, 0))


def _recipe(
    model: str,
    raw: RawDataset,
    size: tuple[int, int],
    overrides: dict[str, Any],
    base: Recipe | None,
    *,
    pretrained: bool,
) -> Recipe:
    if base is None:
        base = _default(model, raw, size, overrides, pretrained=pretrained)
    recipe = base.override(overrides)
    if recipe.epochs == 0 and not pretrained:
        raise ValueError("epochs is 0: nothing would be learnt; that is for --weights, to take them as they are")
    return recipe


def _default(
    model: str, raw: RawDataset, size: tuple[int, int], overrides: dict[str, Any], *, pretrained: bool
) -> Recipe:
    folder = isinstance(raw.train.images, list)  # its name is its owner's, and may be that of a data set
    recipe = default_recipe(
        model,
        "" if folder else raw.name,
        images=len(raw.train),
        size=size,
        mode=raw.mode,
        optimizer=overrides.get("optimizer"),
        pretrained=pretrained,
    )
    epochs = overrides.get("epochs", recipe.epochs)
    return replace(recipe, freeze_epochs=min(recipe.freeze_epochs, max(0, epochs - 1)))  # the rest is to learn too


def _weights_facts(weights: InitialWeights | None, state: RunState | None) -> dict[str, Any]:
    if weights is not None:
        return weights.to_json()
    return {} if state is None else dict(state.facts.get("weights", {}))


def _known_input(weights: InitialWeights | None, state: RunState | None) -> InputSpec | None:
    """What the initial weights were trained on; a run that is gone on with need not find the weights again."""
    if state is not None:
        return InputSpec.from_json(state.facts["input"])
    return None if weights is None else weights.input


def build(config: CheckpointConfig) -> nn.Module:
    """The network with fresh weights; if it is to learn tried in training mode, in which some return more than logits.

    Raises:
        ValueError: options that it does not take, or no logits in training mode.
    """
    try:
        network = config.build_network()
    except TypeError as error:  # an option of the wrong type
        raise ValueError(f"{config.model} cannot be built with the options {config.options}: {error}") from None
    height, width, channels = config.input.shape
    if config.recipe["epochs"]:
        device = next((parameter.device for parameter in network.parameters()), None)
        x = torch.zeros(2, channels, height, width, device=device)
        check_logits(config.model, network, x, classes=len(config.classes), training=True)
    return network


def resume_facts(config: CheckpointConfig) -> dict[str, Any]:
    """What must be the same for a run to go on, besides the recipe."""
    return {
        "model": config.model,
        "options": config.options,
        "classes": config.classes,
        "size": config.input.height,
        "input": config.input.to_json(),
        "dataset": config.dataset,
        "weights": config.weights,
    }


def check_resumable(workdir: Path, state: RunState, config: CheckpointConfig) -> None:
    """Nothing if the run that `state` is of can go on with this configuration.

    Raises:
        ValueError: it cannot; the message names what differs.
    """
    there, here = {**state.facts, **Recipe(**state.recipe).to_json()}, {**resume_facts(config), **config.recipe}
    for facts in (there, here):  # the rest follows from these, and earlier versions told less of it
        facts["dataset"] = {name: facts["dataset"].get(name) for name in ("name", "counts", "sha256")}
    for name in here:
        if there.get(name) != here[name]:
            raise ValueError(
                f"cannot resume {workdir}: {name} is {there.get(name)!r} in that run and {here[name]!r} now; "
                "give the same, or start another run with --out"
            )


def _revision() -> str | None:
    """The git commit of this code, `-dirty` if it was changed since; None outside a repository or without git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
