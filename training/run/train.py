"""A whole training run: data, network, training, the one look at the test set, and the checkpoint directory."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.checkpoint.directory import CheckpointConfig, save_checkpoint
from models.checkpoint.initial_weights import InitialWeights, resolve_weights
from models.checkpoint.samples import SAMPLES_FILE, save_samples
from models.checkpoint.weights import load_pretrained, load_tensors
from models.files import UnwritableError
from training.data.splits import MEMORY_LIMIT_MB
from training.data.streaming import Source
from training.evaluate.evaluation import Evaluation, logits_of
from training.evaluate.plots import MISTAKES, draw_confusion, draw_curves, draw_mistakes, write_figures
from training.evaluate.temperature import fit_temperature
from training.events import Finished, Report, Started, silent
from training.loop.fit import FitResult, fit
from training.loop.learner import make_forward, pick_device, pick_precision
from training.loop.process_group import SINGLE_PROCESS, ProcessGroup
from training.loop.resume import RESUME_FILE, RunState, read_state, resume_hint, seeded
from training.run.directory import new_run_directory, resumable_run_directory
from training.run.plan import Plan, build, check_resumable, make_plan, resume_facts


def train_checkpoint(
    model: str,
    dataset: str,
    *,
    out: Path | None = None,
    data_dir: Path | Sequence[Path] | None = None,
    download: bool = False,
    skip_bad: bool = False,
    memory_limit_mb: int = MEMORY_LIMIT_MB,
    workers: int | None = None,
    size: int | None = None,
    options: dict[str, Any] | None = None,
    overrides: dict[str, Any] | None = None,
    weights: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    report: Report = silent,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Path:
    """Trains a network and writes its checkpoint directory. Prints nothing; tells `report`.

    Args:
        model: name in the registry.
        dataset: name or folder, as `load_dataset` takes it.
        out: the directory; by default `runs/<model>-<dataset>`, or that with -2, -3... if there is one already.
        data_dir: places to look for data files.
        download: fetch absent ones.
        skip_bad: leave damaged files of a folder out; config.json counts them.
        memory_limit_mb: a folder whose images would be larger is decoded from its files in every epoch.
        workers: processes that decode; by default one a processor, up to 8.
        size: height and width to feed the network with; by default `input_size_for` of the images' own.
        options: the network's own keyword arguments.
        overrides: values of `Recipe` fields that differ from `default_recipe`.
        weights: to begin with, as `resolve_weights` takes them; by default random ones.
        resume: go on with the unfinished run in `out`; what is left out is then as it was in that run.
        overwrite: replace the run in `out`; a finished checkpoint there stays until the new one is complete.
        report: called with every `Event`, in the process that writes.
        team: the processes that train together, each of which calls this with the same.

    Returns:
        The directory.

    Raises:
        ValueError: an unknown name, a value out of range, absent or damaged data, an `out` that holds another run, an
            unfinished run that does not fit, or a loss that became infinite.
        UnwritableError: the directory cannot be written, or the disk is full; the message says what is kept.
    """
    find = resumable_run_directory if resume else new_run_directory
    workdir = group.from_writer(lambda: find(out, model=model, dataset=dataset, overwrite=overwrite))
    state = read_state(workdir) if resume else None
    if state is not None:
        size, options = size or state.facts["size"], options or state.facts["options"]
        skip_bad = skip_bad or "left_out" in state.facts["dataset"]

    given = group.from_writer(lambda: resolve_weights(weights, model=model)) if weights else None

    def plan_run() -> Plan:
        return make_plan(
            model,
            dataset,
            data_dir=data_dir,
            download=download,
            skip_bad=skip_bad,
            memory_limit_mb=memory_limit_mb,
            workers=workers,
            size=size,
            options=options,
            overrides=overrides,
            weights=given,
            state=state,
        )

    if download and group.size > 1:  # one fetches, then the others find the files
        plan = plan_run() if group.writes else None
        group.wait()
        plan = plan or plan_run()
    else:
        plan = plan_run()
    if state is not None:
        check_resumable(workdir, state, plan.config)
    _learn(workdir, plan, given, state, report if group.writes else silent, group)
    return workdir


def _learn(
    workdir: Path,
    plan: Plan,
    weights: InitialWeights | None,
    state: RunState | None,
    report: Report,
    group: ProcessGroup,
) -> None:
    config, recipe = plan.config, plan.recipe
    device = pick_device(recipe.device, local_rank=group.local_rank if group.size > 1 else None)
    with seeded(recipe.seed, device):
        network = build(config)
    loaded = ""
    if weights is not None and state is None:
        found = load_pretrained(network, weights.path)
        loaded = str(found)
        if found.skipped and recipe.epochs == 0:
            raise ValueError(f"{weights.path}: {loaded}; with --epochs 0 that layer would stay random")
        if weights.classes not in (None, config.classes) and not found.skipped:
            other = ", ".join(weights.classes or ())[:80]
            known = f"its last layer knows {other}, not {', '.join(config.classes)[:80]}"
            if recipe.epochs == 0:
                raise ValueError(f"{weights.path}: {known}; with --epochs 0 it would go on saying so under other names")
            loaded += f"; {known}, and learns anew"
    report(
        Started(
            directory=workdir,
            model=config.model,
            parameters=sum(p.numel() for p in network.parameters()),
            dataset=config.dataset["name"],
            classes=config.classes,
            counts=config.dataset["counts"],
            shape=config.input.shape,
            device=str(device),
            precision=pick_precision(recipe, device),
            first_epoch=1 if state is None else state.epoch + 1,
            epochs=recipe.epochs,
            processes=group.size,
            streamed=plan.data.streamed,
            left_out=plan.left_out,
            test_folder=config.dataset.get("test_folder", ""),
            duplicates=config.dataset.get("duplicates", 0),
            weights=loaded,
        )
    )
    result = fit(
        network,
        plan.data,
        recipe,
        workdir,
        report,
        spec=config.input,
        facts=resume_facts(config),
        state=state,
        group=group,
    )
    if group.writes:
        try:
            metrics = _finish(workdir, plan, network, result)
        except UnwritableError as error:
            raise UnwritableError(f"{error}; {resume_hint(len(result.history))}") from error
        seconds = sum(line.seconds for line in result.history)
        report(Finished(directory=workdir, metrics=metrics, seconds=seconds))
    group.wait()


def _finish(workdir: Path, plan: Plan, network: nn.Module, result: FitResult) -> dict[str, dict[str, float]]:
    """Fits the temperature, looks once at the test split, and writes the checkpoint."""
    config, data = plan.config, plan.data
    load_tensors(network, result.weights)
    device = next(network.parameters()).device
    classify = make_forward(network.eval(), config.input, device=device)
    held_out = logits_of(classify, data.validation.to(device)).cpu()
    temperature = fit_temperature(held_out, data.validation.labels)
    seen = Evaluation.of(held_out, data.validation.labels)
    validation = {"accuracy": seen.accuracy, "loss": seen.loss}
    logits = logits_of(classify, data.test.to(device)).cpu()
    before = Evaluation.of(logits, data.test.labels)
    test = Evaluation.of(logits, data.test.labels, temperature=temperature)
    calibration = {"calibration_error_before_temperature": before.reliability.calibration_error}
    metrics = {"validation": validation, "test": test.to_json() | calibration}
    _write_pictures(workdir, result, test, data.test, config)
    save_samples(workdir / SAMPLES_FILE, plan.samples)
    save_checkpoint(workdir, replace(config, metrics=metrics, temperature=temperature), result.weights)
    (workdir / RESUME_FILE).unlink()
    return metrics


def _write_pictures(
    workdir: Path, result: FitResult, test: Evaluation, images: Source, config: CheckpointConfig
) -> None:
    classes = config.classes
    mistakes = images.take(torch.from_numpy(test.surest_mistakes(MISTAKES))).in_memory().images.numpy()
    curves = {"curves.png": draw_curves(result.history)} if result.history else {}
    figures = {
        **curves,
        "confusion.png": draw_confusion(test, classes=classes),
        "mistakes.png": draw_mistakes(test, mistakes, classes=classes),
    }
    write_figures(workdir, figures)
