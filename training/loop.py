"""The training loop: data in memory, the best epoch kept, resumable after every epoch."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.files import whole_file
from models.inputs import InputSpec
from training.augment import augment
from training.evaluation import evaluate
from training.learner import make_learner, train_step
from training.recipe import Recipe
from training.report import EpochDone, Report, StepDone
from training.state import RESUME_FILE, RunState, Weights, generator_states, seeded, set_generator_states
from training.tensors import Images, Splits

LOG_FILE = "log.jsonl"


@dataclass(frozen=True)
class FitResult:
    """The epochs of a training, which of them was best (from 1), and its weights on the CPU."""

    history: tuple[EpochDone, ...]
    best_epoch: int
    weights: Weights


def fit(
    network: nn.Module,
    data: Splits,
    recipe: Recipe,
    workdir: Path,
    report: Report,
    *,
    spec: InputSpec,
    facts: dict[str, Any] | None = None,
    state: RunState | None = None,
) -> FitResult:
    """Trains a network in place and keeps the epoch that is best on the validation split (ties: lower loss).

    Before the first epoch and after each one, resume.pt and log.jsonl are written to `workdir`; an exception, Ctrl-C
    included, leaves the last ones there. The test split is not touched.

    Args:
        network: freshly initialised, or any if `state` is given.
        data: at the size of `spec`; moved to the recipe's device as a whole.
        recipe: the settings.
        workdir: an existing folder.
        report: called with `StepDone` and `EpochDone`.
        spec: mean, deviation and background.
        facts: kept in resume.pt, for the caller to compare before going on.
        state: from `read_state`, of an interrupted run of the same network, data and recipe.

    Raises:
        ValueError: the loss became infinite or NaN.
    """
    run = _Run(network, data, recipe, spec, facts or {})
    with seeded(recipe.seed, run.device):  # dropout draws from the global generator
        if state is not None:
            run.restore(state)
        run.save(workdir)
        for epoch in range(len(run.history) + 1, recipe.epochs + 1):
            done = run.epoch(epoch, report)
            if not (math.isfinite(done.train_loss) and math.isfinite(done.validation_loss)):
                first, last = (epoch - 1) * run.steps + 1, epoch * run.steps
                raise ValueError(
                    f"the training loss is {done.train_loss} and the validation loss {done.validation_loss} after "
                    f"epoch {epoch} (steps {first}-{last}); {workdir / RESUME_FILE} holds the state before it; a "
                    f"--learning-rate smaller than {recipe.learning_rate} often helps"
                )
            run.keep(done)
            run.save(workdir)
            report(done)
    return FitResult(tuple(run.history), run.best_epoch, {name: w.cpu() for name, w in run.best_weights.items()})


class _Run:
    """A training under way: what resume.pt holds, in use."""

    def __init__(
        self, network: nn.Module, data: Splits, recipe: Recipe, spec: InputSpec, facts: dict[str, Any]
    ) -> None:
        self.steps = math.ceil(len(data.train) / recipe.batch_size)
        self.learner = make_learner(network, spec, recipe, steps=self.steps * recipe.epochs)
        self.device = next(network.parameters()).device
        self.train, self.validation = data.train.to(self.device), data.validation.to(self.device)
        self.recipe, self.background, self.facts = recipe, spec.background[0], facts
        self.generator = torch.Generator(self.device).manual_seed(recipe.seed)
        self.history: list[EpochDone] = []
        self.best_epoch, self.best_weights = 0, _copy(network)

    def restore(self, state: RunState) -> None:
        self.learner.network.load_state_dict(state.weights)
        self.learner.optimizer.load_state_dict(state.optimizer)
        self.learner.schedule.load_state_dict(state.schedule)
        set_generator_states(self.generator, state.generators)
        self.history = [EpochDone.from_json(line) for line in state.history]
        self.best_epoch, self.best_weights = state.best_epoch, state.best_weights

    def save(self, workdir: Path) -> None:
        lines = [line.to_json() for line in self.history]
        RunState(
            facts=self.facts,
            recipe=self.recipe.to_json(),
            epoch=len(lines),
            history=lines,
            best_epoch=self.best_epoch,
            weights=self.learner.network.state_dict(),
            best_weights=self.best_weights,
            optimizer=self.learner.optimizer.state_dict(),
            schedule=self.learner.schedule.state_dict(),
            generators=generator_states(self.generator),
        ).write(workdir)
        with whole_file(workdir / LOG_FILE) as path:
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def epoch(self, number: int, report: Report) -> EpochDone:
        started, rate = time.perf_counter(), float(self.learner.schedule.get_last_lr()[0])
        totals = self._pass(number, report)
        loss, accuracy = (totals / len(self.train)).tolist()  # the one place that waits for the device
        seconds = time.perf_counter() - started
        self.learner.network.eval()
        validation = evaluate(self.learner.forward, self.validation)
        return EpochDone(
            epoch=number,
            train_loss=loss,
            train_accuracy=accuracy,
            validation_loss=validation.loss,
            validation_accuracy=validation.accuracy,
            learning_rate=rate,
            images_per_s=len(self.train) / seconds,
            seconds=time.perf_counter() - started,
        )

    def _pass(self, number: int, report: Report) -> Tensor:
        self.learner.network.train()
        totals, seen = torch.zeros(2, dtype=torch.float64, device=self.device), 0
        for step, batch in enumerate(self._batches(), start=1):
            totals += train_step(self.learner, batch.images, batch.labels)
            seen += len(batch)
            report(StepDone(epoch=number, step=step, images=seen, totals=totals))
        return totals

    def _batches(self) -> Iterator[Images]:
        """Every image once, in random order; sizes differ by one at most: batch norm minds a tiny last one."""
        order = torch.randperm(len(self.train), generator=self.generator, device=self.device)
        for index in order.tensor_split(self.steps):
            batch = self.train.take(index)
            images = augment(
                batch.images,
                shift=self.recipe.shift,
                flip=self.recipe.flip,
                background=self.background,
                generator=self.generator,
            )
            yield Images(images, batch.labels)

    def keep(self, done: EpochDone) -> None:
        self.history.append(done)
        if self.best_epoch == 0 or done.quality > self.history[self.best_epoch - 1].quality:
            self.best_epoch, self.best_weights = done.epoch, _copy(self.learner.network)


def _copy(network: nn.Module) -> Weights:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
