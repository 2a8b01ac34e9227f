"""The training loop: epoch by epoch, resumable after each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from models.checkpoint.names import RESUME_FILE
from models.checkpoint.weights import Weights
from models.files import UnwritableError
from models.images.input_spec import InputSpec
from training.data.splits import Splits
from training.events import EpochFinished, Report
from training.loop.process_group import SINGLE_PROCESS, ProcessGroup
from training.loop.resume import RunState, fork_rng, resume_hint
from training.loop.trainer import LossError, Trainer
from training.recipes.recipe import Recipe


@dataclass(frozen=True)
class FitResult:
    """The epochs of a training, and the final weights, or their moving average if enabled, on the CPU."""

    history: tuple[EpochFinished, ...]
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
    group: ProcessGroup = SINGLE_PROCESS,
) -> FitResult:
    """Trains a network in place and keeps the weights of the last epoch; docs/training.md gives the reasons.

    Before the first epoch and after each one, resume.pt and log.jsonl are written to `workdir`; on an exception,
    including Ctrl-C, the last ones stay there. The test split is not used.

    Args:
        network: freshly initialised, or any if `state` is given.
        data: at the size of `spec`; data in memory move to the recipe's device as a whole.
        workdir: a folder, created unless the settings do not suit the network.
        report: called with `StepFinished` and `EpochFinished`.
        facts: stored in resume.pt, for the caller to compare before resuming.
        state: from an interrupted run of the same network, data and recipe.
        group: the processes that train together, each of which makes the same call; the main one writes.

    Raises:
        ValueError: settings that do not suit the network, such as muon without convolutions.
        LossError: a loss became infinite or NaN; checked every 50 steps.
        UnwritableError: the disk is full, for example; resume.pt keeps the state of the last epoch.
    """
    trainer = Trainer(network, data, recipe, spec, facts or {}, group)
    if group.is_main:
        workdir.mkdir(parents=True, exist_ok=True)
    with fork_rng(recipe.seed + group.rank, trainer.device):  # dropout uses the global generator
        if state is not None:
            trainer.restore(state)
        try:
            trainer.save(workdir)
            for epoch in range(len(trainer.history) + 1, recipe.epochs + 1):
                done = trainer.epoch(epoch, report)
                trainer.save(workdir)
                report(done)
        except LossError as error:
            raise LossError(
                f"{error}; {workdir / RESUME_FILE} holds the state after epoch {len(trainer.history)}. "
                f"Resumed, it would come to the same step: start anew with a --learning-rate smaller than "
                f"{recipe.learning_rate} or --clip-norm 1; --weights {workdir / RESUME_FILE} keeps what was trained"
            ) from None
        except UnwritableError as error:
            if trainer.saved is None:
                raise
            raise UnwritableError(f"{error}; {resume_hint(trainer.saved)}") from error
    weights = {name: tensor.detach().cpu() for name, tensor in trainer.learner.evaluation_network.state_dict().items()}
    return FitResult(tuple(trainer.history), weights)
