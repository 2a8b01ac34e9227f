"""A whole training run: data, network, training, one evaluation on the test set, and the checkpoint directory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.checkpoint.directory import save_checkpoint
from models.checkpoint.initial_weights import InitialWeights, resolve_weights
from models.checkpoint.names import RESUME_FILE
from models.checkpoint.samples import SAMPLES_FILE, save_samples
from models.checkpoint.weights import load_pretrained, load_tensors
from models.errors import UserError
from models.files import UnwritableError, atomic_write
from models.graph.onnx_program import why_not_onnx
from models.networks.registry import is_custom
from training.evaluate.evaluation import Evaluation, logits_of
from training.evaluate.plots import MISTAKES, draw_confusion, draw_curves, draw_mistakes, write_figures
from training.evaluate.predictions import write_predictions
from training.evaluate.temperature import fit_temperature
from training.events import Report, RunFinished, RunStarted, ignore_events
from training.loop.fit import FitResult, fit
from training.loop.learner import make_forward, pick_device, pick_precision
from training.loop.process_group import SINGLE_PROCESS, ProcessGroup
from training.loop.resume import RunState, fork_rng, read_state, resume_hint
from training.run.directory import UNUSED_FILE, new_run_directory, resumable_run_directory
from training.run.plan import Plan, TrainingRequest, build, check_resumable, make_plan, resume_facts


def train_checkpoint(
    request: TrainingRequest,
    *,
    out: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    report: Report = ignore_events,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Path:
    """Trains a network, and writes and returns its checkpoint directory. Prints nothing.

    Args:
        out: the directory; by default `runs/<model>-<dataset>`, with -2, -3... if that exists.
        resume: continue the unfinished run in `out`, with its values for settings omitted in the request.
        overwrite: replace the run in `out`; a finished checkpoint there stays until the new one is complete.
        report: called with every `Event`, in the main process.
        group: the processes that train together, each of which makes the same call.

    Raises:
        ValueError: an unknown name, a value out of range, missing or damaged data, an `out` that holds another run, an
            unfinished run that does not match, or an infinite loss.
        UnwritableError: the directory cannot be written, or the disk is full; the message names the kept files.
    """
    model, dataset, named = request.model, request.dataset, request.weights
    find = resumable_run_directory if resume else new_run_directory
    workdir = group.broadcast_from_main(lambda: find(out, model=model, dataset=dataset, overwrite=overwrite))
    state = read_state(workdir) if resume else None
    if state is not None:
        request = request.resuming(state)
    weights = group.broadcast_from_main(lambda: resolve_weights(named, model=model)) if named else None
    plan = None
    if request.data_options.download and group.size > 1:  # one process downloads, then the others find the files
        plan = make_plan(request, weights=weights, state=state) if group.is_main else None
        group.barrier()
    plan = plan or make_plan(request, weights=weights, state=state)
    if state is not None:
        check_resumable(workdir, state, plan.config)
    _train(workdir, plan, weights, state, report if group.is_main else ignore_events, group)
    return workdir


def _train(
    workdir: Path,
    plan: Plan,
    weights: InitialWeights | None,
    state: RunState | None,
    report: Report,
    group: ProcessGroup,
) -> None:
    config, recipe = plan.config, plan.recipe
    device = pick_device(recipe.device, local_rank=group.local_rank if group.size > 1 else None)
    with fork_rng(recipe.seed, device):
        network = build(config)
    height, width, channels = config.input.shape
    tried = group.is_main and state is None and is_custom(config.model)  # all others are known to work
    no_onnx = why_not_onnx(network, (channels, height, width)) if tried else ""
    loaded = ""
    if weights is not None and state is None:
        found = load_pretrained(network, weights.path)
        loaded = str(found)
        if found.skipped and recipe.epochs == 0:
            raise UserError(f"{weights.path}: {loaded}; with --epochs 0 that layer would stay random")
        if weights.classes not in (None, config.classes) and not found.skipped:
            other = ", ".join(weights.classes or ())[:80]
            known = f"its last layer knows {other}, not {', '.join(config.classes)[:80]}"
            if recipe.epochs == 0:
                raise UserError(f"{weights.path}: {known}; with --epochs 0 it would predict those under other names")
            loaded += f"; {known}, and is trained anew"
    if group.is_main and plan.unused:
        rows = "".join(f"{name}\t{reason}\n" for name, reason in plan.unused.items())
        workdir.mkdir(parents=True, exist_ok=True)
        with atomic_write(workdir / UNUSED_FILE) as path:
            path.write_text(rows)
    report(
        RunStarted(
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
            passed_over=config.dataset.get("passed_over", {}),
            ambiguous=_ambiguous(config.dataset),
            no_onnx=no_onnx,
            dark=config.dataset.get("dark", ""),
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
    if group.is_main:
        try:
            metrics, test = _evaluate_and_save(workdir, plan, network, result)
        except UnwritableError as error:
            raise UnwritableError(f"{error}; {resume_hint(len(result.history))}") from error
        try:
            write_pictures(workdir, result, test, plan)
            missing = ""
        except Exception as error:  # whatever a picture's fault is, the run is complete without it
            missing = str(error) or type(error).__name__
        report(
            RunFinished(
                directory=workdir,
                metrics=metrics,
                seconds=sum(line.seconds for line in result.history),
                worst_class=config.classes[test.worst_class],
                missing_pictures=missing,
            )
        )
    group.barrier()


def _ambiguous(dataset: dict[str, Any]) -> tuple[int, tuple[str, str]] | None:
    found = dataset.get("ambiguous")
    return found and (found["count"], tuple(found["first"][0]))


def _evaluate_and_save(
    workdir: Path, plan: Plan, network: nn.Module, result: FitResult
) -> tuple[dict[str, dict[str, float]], Evaluation]:
    """Fits the temperature, evaluates once on the test split, and writes the checkpoint."""
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
    save_samples(workdir / SAMPLES_FILE, plan.samples)
    save_checkpoint(workdir, replace(config, metrics=metrics, temperature=temperature), result.weights)
    (workdir / RESUME_FILE).unlink()
    return metrics, test


def write_pictures(workdir: Path, result: FitResult, test: Evaluation, plan: Plan) -> None:
    """Writes the predictions, and draws the curves, the confusion matrix and the most confident mistakes.

    Raises:
        UnwritableError: a file cannot be written.
    """
    classes, files = plan.config.classes, plan.test_files
    write_predictions(workdir, test, classes=classes, files=files)
    mistakes = plan.data.test.take(torch.from_numpy(test.most_confident_mistakes(MISTAKES))).in_memory().images.numpy()
    curves = {"curves.png": draw_curves(result.history)} if result.history else {}
    figures = {
        **curves,
        "confusion.png": draw_confusion(test, classes=classes),
        "mistakes.png": draw_mistakes(test, mistakes, classes=classes, files=files),
    }
    write_figures(workdir, figures)
