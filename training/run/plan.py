"""The plan of a run, made before its first step, and the check that an interrupted run can continue with it."""

import subprocess
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.checkpoint.directory import CheckpointConfig
from models.checkpoint.initial_weights import InitialWeights
from models.checkpoint.samples import VerificationImages
from models.errors import UserError
from models.graph.image_check import check_images_apart
from models.graph.source_line import users_line
from models.graph.trace_check import check_trace
from models.images.input_spec import InputSpec
from models.networks.registry import input_size_for, is_custom
from models.networks.spec import check_logits
from training.data.datasets import load_dataset
from training.data.options import DataOptions
from training.data.raw import RawDataset
from training.data.sampling import sample_test_images
from training.data.splits import Splits, prepare_splits
from training.data.walk import summary_of
from training.loop.resume import RunState
from training.recipes.defaults import default_recipe
from training.recipes.recipe import Recipe

NAMED = 10  # maximum number of skipped files listed in config.json
LIBRARIES = ("torch", "torchvision", "numpy", "pillow", "safetensors")


@dataclass(frozen=True)
class TrainingRequest:
    """A network, a data set and the settings of a run that differ from the defaults.

    Attributes:
        model: name in the registry.
        dataset: name or folder, as `load_dataset` takes it.
        size: height and width of the network's input; by default `input_size_for` of the images' own.
        options: the network's own keyword arguments.
        overrides: values of `Recipe` fields that differ from `default_recipe`.
        weights: initial weights, as in `resolve_weights`; by default random.
    """

    model: str
    dataset: str
    data_options: DataOptions = field(default_factory=DataOptions)
    size: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None

    def resuming(self, state: RunState) -> "TrainingRequest":
        """The request with omitted values taken from an interrupted run."""
        return replace(
            self,
            size=self.size or state.facts["size"],
            options=self.options or state.facts["options"],
            data_options=replace(
                self.data_options, skip_bad=self.data_options.skip_bad or "left_out" in state.facts["dataset"]
            ),
        )


@dataclass(frozen=True)
class Plan:
    """Configuration (without metrics), recipe and data of a run."""

    config: CheckpointConfig
    recipe: Recipe
    data: Splits
    samples: VerificationImages
    unused: dict[str, str] = field(default_factory=dict)  # files of the folder by relative name, and the reasons
    test_files: tuple[str, ...] = ()  # of the test images, relative to the folder; empty if they are no files

    @property
    def left_out(self) -> int:
        """Damaged files that are skipped."""
        count: int = self.config.dataset.get("left_out", {}).get("count", 0)
        return count


def make_plan(
    request: TrainingRequest, *, weights: InitialWeights | None = None, state: RunState | None = None
) -> Plan:
    """Loads the data and completes the settings.

    Args:
        weights: the weights named by `request.weights`.
        state: state of the run to continue.

    Raises:
        ValueError: an unknown name, a value out of range, missing or damaged data.
    """
    raw = load_dataset(request.dataset, request.data_options)
    size = _input_size(request, raw)
    initial_weights = _weights_facts(weights, state)
    base = None if state is None else Recipe(**state.recipe)
    recipe = _recipe(request, raw, size, base, pretrained=bool(initial_weights))
    spec, data = prepare_splits(
        raw,
        size=size,
        fraction=recipe.validation_fraction,
        seed=recipe.seed,
        options=request.data_options,
        like=_known_input(weights, state) if initial_weights else None,
    )
    counts = {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)}
    facts: dict[str, Any] = {"name": raw.name, "counts": counts, "sha256": raw.sha256}
    facts["class_counts"] = torch.bincount(data.train.labels.cpu().long(), minlength=len(raw.classes)).tolist()
    if raw.test_folder:
        facts["test_folder"] = raw.test_folder
    if raw.duplicates:
        facts["duplicates"] = raw.duplicates
    if request.data_options.skip_bad:
        facts["left_out"] = {"count": len(raw.skipped_files), "first": list(raw.skipped_files)[:NAMED]}
    if raw.passed_over:
        facts["passed_over"] = summary_of(raw.passed_over)
    if raw.ambiguous:
        facts["ambiguous"] = {"count": len(raw.ambiguous), "first": list(map(list, raw.ambiguous[:NAMED]))}
    if raw.dark:
        facts["dark"] = raw.dark
    config = CheckpointConfig(
        model=request.model,
        options=request.options,
        classes=raw.classes,
        input=spec,
        recipe=recipe.to_json(),
        dataset=facts,
        weights=initial_weights,
        revision=_revision(),
        versions={name: version(name) for name in LIBRARIES},
    )
    samples = sample_test_images(raw, data.test, limit_pixels=request.data_options.image_limit_pixels)
    unused = raw.skipped_files | dict.fromkeys(raw.passed_over, "not an image by its name")
    return Plan(config, recipe, data, samples, unused, raw.files_of(raw.test))


def plan_recipe(request: TrainingRequest) -> Recipe:
    """The recipe that `make_plan` chooses."""
    raw = load_dataset(request.dataset, request.data_options)
    return _recipe(request, raw, _input_size(request, raw), None, pretrained=request.weights is not None)


def _input_size(request: TrainingRequest, raw: RawDataset) -> tuple[int, int]:
    if request.size is not None:
        return request.size, request.size
    return input_size_for(request.model, raw.size or (0, 0))


def _recipe(
    request: TrainingRequest, raw: RawDataset, size: tuple[int, int], base: Recipe | None, *, pretrained: bool
) -> Recipe:
    recipe = (base or _default(request, raw, size, pretrained=pretrained)).override(request.overrides)
    if recipe.epochs == 0 and not pretrained:
        raise UserError("epochs is 0, which trains nothing; that needs --weights, which are then kept as they are")
    return recipe


def _default(request: TrainingRequest, raw: RawDataset, size: tuple[int, int], *, pretrained: bool) -> Recipe:
    folder = isinstance(raw.train.images, list)  # a folder's name may coincide with a data set's
    recipe = default_recipe(
        request.model,
        "" if folder else raw.name,
        images=len(raw.train),
        size=size,
        mode=raw.mode,
        optimizer=request.overrides.get("optimizer"),
        pretrained=pretrained,
    )
    epochs = request.overrides.get("epochs", recipe.epochs)
    return replace(recipe, freeze_epochs=min(recipe.freeze_epochs, max(0, epochs - 1)))  # one for the other layers


def _weights_facts(weights: InitialWeights | None, state: RunState | None) -> dict[str, Any]:
    if weights is not None:
        return weights.to_json()
    return {} if state is None else dict(state.facts.get("weights", {}))


def _known_input(weights: InitialWeights | None, state: RunState | None) -> InputSpec | None:
    """The input specification of the initial weights; a resumed run does not need the weights again."""
    if state is not None:
        return InputSpec.from_json(state.facts["input"])
    return None if weights is None else weights.input


def build(config: CheckpointConfig) -> nn.Module:
    """The network with fresh weights, which can be traced; unless epochs is 0, its output in training mode is also
    checked.

    Raises:
        ValueError: invalid options, an output that is not logits, or a network that cannot be traced and exported.
    """
    height, width, channels = config.input.shape
    try:
        network = config.build_network()
        if config.recipe["epochs"]:
            device = next((parameter.device for parameter in network.parameters()), None)
            x = torch.zeros(2, channels, height, width, device=device)
            check_logits(config.model, network, x, classes=len(config.classes), training=True)
    except TypeError as error:  # an option of the wrong type
        raise UserError(f"{config.model} cannot be built with the options {config.options}: {error}") from None
    except UserError as error:
        line = users_line(error.__cause__.__traceback__) if error.__cause__ else None
        raise UserError(f"{error}{line.quoted if line else ''}") from error
    traced = check_trace(network, (channels, height, width))
    if is_custom(config.model):
        check_images_apart(traced, network, (channels, height, width))
    return network


def resume_facts(config: CheckpointConfig) -> dict[str, Any]:
    """The values besides the recipe that must be equal to continue a run."""
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
    """Raises ValueError with the difference unless the interrupted run can continue with this configuration."""
    there, here = {**state.facts, **Recipe(**state.recipe).to_json()}, {**resume_facts(config), **config.recipe}
    for facts in (there, here):  # the rest follows from these, and earlier versions recorded less
        facts["dataset"] = {name: facts["dataset"].get(name) for name in ("name", "counts", "sha256")}
    for name in here:
        if there.get(name) != here[name]:
            raise UserError(
                f"cannot resume {workdir}: {name} is {there.get(name)!r} in that run and {here[name]!r} now; "
                "give the same, or start another run with --out"
            )


def _revision() -> str | None:
    """The git commit of this code, with `-dirty` for local changes; None outside a repository or without git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
