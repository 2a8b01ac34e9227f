"""Trainings on the device: accuracy and time of the default recipes, beside bare steps on one batch."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.engines import rate
from benchmarks.gpu.options import Options
from benchmarks.gpu.report import Budget, Report
from models.checkpoint.weights import load_tensors
from training.data.options import DataOptions
from training.evaluate.evaluation import Evaluation, logits_of
from training.events import ignore_events
from training.loop.fit import fit
from training.loop.learner import make_forward, make_learner, train_step, training_forward
from training.loop.resume import fork_rng
from training.run.plan import Plan, TrainingRequest, build, make_plan

COLUMNS = (
    "network",
    "optimizer",
    "images",
    "epochs",
    "goal",
    "test accuracy",
    "seconds",
    "images/s, fastest epoch",
    "bare steps, images/s",
    "share",
)
QUICK_BATCH = 64
QUICK_IMAGES = 512  # of a training split, to try the measurements


@dataclass(frozen=True)
class Training:
    """A network, its images, and the target on an H200."""

    network: str
    dataset: str
    epochs: int
    goal: str
    seconds: float  # maximum time there, data included; used until the network has been measured
    changes: dict[str, Any]  # from the default recipe


# With AdamW, batches of 512 and 20 epochs an H200 reached 88.95 % in 23 s.
_MUON = {"optimizer": "muon", "learning_rate": 0.012, "weight_decay": 0.05, "label_smoothing": 0.05, "batch_size": 512}
_SGD = {"optimizer": "sgd", "learning_rate": 0.4, "weight_decay": 5e-4, "label_smoothing": 0.1, "batch_size": 512}
TRAININGS = (
    Training("lenet", "mnist", 10, "99.2 % in 5 s", 20, {"batch_size": 512}),
    Training("resnet18", "cifar10-jpeg", 24, "94 % in 60 s", 40, {**_MUON, "erasing": 0.25}),
    Training("resnet18", "cifar10-jpeg", 48, "94 % in 60 s", 80, {**_MUON, "erasing": 0.4}),
    Training("resnet18", "cifar10-jpeg", 48, "94 % in 60 s", 60, {**_SGD, "erasing": 0.4}),
)


def run(report: Report, budget: Budget, options: Options) -> None:
    """Runs every training whose images are available, while time is left."""
    report.section("Trainings", COLUMNS)
    if options.data is None:
        report.note("no trainings: --data names the folder with MNIST/raw and cifar10-jpeg")
        return
    seconds_per_epoch: dict[tuple[str, str], float] = {}  # by network and optimizer, as measured; preparations included
    for training in TRAININGS[:2] if options.quick else TRAININGS:
        epochs = 1 if options.quick else training.epochs
        optimizer = str(training.changes.get("optimizer", "adamw"))
        row = (training.network, optimizer, training.dataset, epochs, training.goal)
        if not options.includes(f"{training.network} {optimizer} {epochs}"):
            continue
        measured = seconds_per_epoch.get((training.network, optimizer))
        if not budget.enough(20 if options.quick else training.seconds if measured is None else epochs * measured):
            report.skipped(f"{training.network}, {epochs} epochs", budget)
            continue
        began = time.monotonic()
        try:
            report.row(*row, *_measure(training, options, epochs))
            seconds_per_epoch[training.network, optimizer] = (time.monotonic() - began) / epochs
        except Exception as error:  # missing images or device errors; the other trainings still run
            report.error(*row, error=error)


def _measure(training: Training, options: Options, epochs: int) -> tuple[str, float, float, float, str]:
    plan = _plan(training, options, epochs)
    device = torch.device(options.device)
    with fork_rng(plan.recipe.seed, device):
        network = build(plan.config)
    with tempfile.TemporaryDirectory() as folder:
        result = fit(network, plan.data, plan.recipe, Path(folder), ignore_events, spec=plan.config.input)
    load_tensors(network, result.weights)
    classify = make_forward(network.eval(), plan.config.input, device=device)
    logits = logits_of(classify, plan.data.test.to(device)).cpu()
    accuracy = Evaluation.of(logits, plan.data.test.labels).accuracy
    fastest = max(line.images_per_s for line in result.history)
    bare = _bare(plan, options)
    return f"{accuracy:.2%}", sum(line.seconds for line in result.history), fastest, bare, f"{fastest / bare:.0%}"


def _plan(training: Training, options: Options, epochs: int) -> Plan:
    assert options.data is not None
    dataset = str(options.data / training.dataset) if training.dataset == "cifar10-jpeg" else training.dataset
    changes = {**training.changes, "epochs": epochs, "device": options.device}
    changes |= {"batch_size": QUICK_BATCH} if options.quick else {}
    plan = make_plan(
        TrainingRequest(training.network, dataset, data_options=DataOptions(data_dir=options.data), overrides=changes)
    )
    if not options.quick:
        return plan
    data, some = plan.data, torch.arange(QUICK_IMAGES)
    fewer = type(data)(data.train.take(some), data.validation.take(some[:256]), data.test.take(some[:256]))
    return type(plan)(plan.config, plan.recipe, fewer, plan.samples)


def _bare(plan: Plan, options: Options) -> float:
    """Images per second of steps on one batch that is already on the device, without augmentation."""
    network, spec, recipe = build(plan.config), plan.config.input, plan.recipe
    device = torch.device(options.device)
    learner = make_learner(network, spec, recipe, steps=10**6, device=device)
    learner.forward = training_forward(network, spec, recipe)
    network.train()
    batch = next(plan.data.train.to(device).batches([torch.arange(recipe.batch_size)]))
    return recipe.batch_size * rate(
        lambda: train_step(learner, batch.images, batch.labels), options.device, seconds=1.0
    )
