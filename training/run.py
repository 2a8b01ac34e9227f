"""A whole training run: data, network, training, the one look at the test set, and the checkpoint directory."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from models.checkpoint import CONFIG_FILE, CheckpointConfig, save_checkpoint
from models.registry import network_size
from models.samples import SAMPLES_FILE, Samples, save_samples
from training.datasets import load_dataset
from training.evaluation import evaluate
from training.learner import forward_of, pick_device, pick_precision
from training.loop import FitResult, fit
from training.plots import write_pictures
from training.recipe import Recipe, default_recipe
from training.report import Finished, Report, Started, silent
from training.run_directory import fresh_directory, unfinished_directory
from training.samples import pick_samples
from training.state import RESUME_FILE, RunState, read_state, seeded
from training.tensors import Splits, prepare_splits

LIBRARIES = ("torch", "torchvision", "numpy", "pillow", "safetensors")


def train_checkpoint(
    model: str,
    dataset: str,
    *,
    out: Path | None = None,
    data_dir: Path | Sequence[Path] | None = None,
    download: bool = False,
    size: int | None = None,
    options: dict[str, Any] | None = None,
    overrides: dict[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    report: Report = silent,
) -> Path:
    """Trains a network and writes its checkpoint directory. Prints nothing; tells `report`.

    Args:
        model: name in the registry.
        dataset: name or folder, as `load_dataset` takes it.
        out: the directory; by default `runs/<model>-<dataset>`, or that with -2, -3... if there is one already.
        data_dir: places to look for data files.
        download: fetch absent ones.
        size: height and width to feed the network with; by default `network_size` of the images' own.
        options: the network's own keyword arguments.
        overrides: values of `Recipe` fields that differ from `default_recipe`.
        resume: go on with the unfinished run in `out`; what is left out is then as it was in that run.
        overwrite: replace the run in `out`.
        report: called with every `Event`.

    Returns:
        The directory.

    Raises:
        ValueError: an unknown name, a value out of range, absent or damaged data, an `out` that holds another run, an
            unfinished run that does not fit, or a loss that became infinite.
    """
    find = unfinished_directory if resume else fresh_directory
    workdir = find(out, model=model, dataset=dataset, overwrite=overwrite)
    state = read_state(workdir) if resume else None
    if state is not None:
        size, options = size or state.facts["size"], options or state.facts["options"]
    plan = _plan(
        model,
        dataset,
        data_dir=data_dir,
        download=download,
        size=size,
        options=options or {},
        overrides=overrides or {},
        base=Recipe(**state.recipe) if state is not None else None,
    )
    if state is not None:
        _check_fits(workdir, state, plan.config)
    _learn(workdir, plan, state, report)
    return workdir


@dataclass(frozen=True)
class _Plan:
    """All that is fixed before the first step; the configuration has no metrics yet."""

    config: CheckpointConfig
    recipe: Recipe
    data: Splits
    samples: Samples


def _plan(
    model: str,
    dataset: str,
    *,
    data_dir: Path | Sequence[Path] | None,
    download: bool,
    size: int | None,
    options: dict[str, Any],
    overrides: dict[str, Any],
    base: Recipe | None,
) -> _Plan:
    raw = load_dataset(dataset, data_dir=data_dir, download=download)
    fed = (size, size) if size is not None else network_size(model, raw.size or (0, 0))
    base = base or default_recipe(model, raw.name, images=len(raw.train), size=fed, mode=raw.mode)
    recipe = base.override(overrides)
    spec, data = prepare_splits(raw, size=fed, fraction=recipe.validation_fraction, seed=recipe.seed)
    counts = {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)}
    config = CheckpointConfig(
        model=model,
        options=options,
        classes=raw.classes,
        input=spec,
        recipe=recipe.to_json(),
        dataset={"name": raw.name, "counts": counts, "sha256": raw.sha256},
        revision=_revision(),
        versions={name: version(name) for name in LIBRARIES},
    )
    return _Plan(config, recipe, data, pick_samples(raw, data.test))


def _learn(workdir: Path, plan: _Plan, state: RunState | None, report: Report) -> None:
    config, recipe, data = plan.config, plan.recipe, plan.data
    device = pick_device(recipe.device)
    with seeded(recipe.seed, device):
        network = _build(config)
    report(
        Started(
            directory=workdir,
            model=config.model,
            parameters=sum(p.numel() for p in network.parameters()),
            dataset=config.dataset["name"],
            counts=config.dataset["counts"],
            shape=config.input.shape,
            device=str(device),
            precision=pick_precision(recipe.precision, device),
            first_epoch=1 if state is None else state.epoch + 1,
            epochs=recipe.epochs,
        )
    )
    workdir.mkdir(parents=True, exist_ok=True)
    save_samples(workdir / SAMPLES_FILE, plan.samples)
    (workdir / CONFIG_FILE).unlink(missing_ok=True)  # of a run that is overwritten
    result = fit(network, data, recipe, workdir, report, spec=config.input, facts=_facts(config), state=state)
    network.load_state_dict(result.weights)
    classify = forward_of(network.eval(), config.input, device=device)
    test = evaluate(classify, data.test.to(device))  # the one look
    metrics = {"validation": _validation_metrics(result), "test": test.to_json()}
    write_pictures(workdir, result.history, test, data.test.images.numpy(), classes=config.classes)
    save_checkpoint(workdir, replace(config, metrics=metrics), result.weights)
    (workdir / RESUME_FILE).unlink()
    report(
        Finished(
            directory=workdir,
            metrics=metrics,
            best_epoch=result.best_epoch,
            seconds=sum(line.seconds for line in result.history),
        )
    )


def _build(config: CheckpointConfig) -> nn.Module:
    try:
        return config.build_network()
    except TypeError as error:  # an option of the wrong type
        raise ValueError(f"{config.model} cannot be built with the options {config.options}: {error}") from None


def _validation_metrics(result: FitResult) -> dict[str, float]:
    best = result.history[result.best_epoch - 1]
    return {"accuracy": best.validation_accuracy, "loss": best.validation_loss, "epoch": best.epoch}


def _facts(config: CheckpointConfig) -> dict[str, Any]:
    """What must be the same for a run to go on, besides the recipe."""
    return {
        "model": config.model,
        "options": config.options,
        "classes": config.classes,
        "size": config.input.height,
        "input": config.input.to_json(),
        "dataset": config.dataset,
    }


def _check_fits(workdir: Path, state: RunState, config: CheckpointConfig) -> None:
    there, here = {**state.facts, **state.recipe}, {**_facts(config), **config.recipe}
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
