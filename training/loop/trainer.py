"""The state of a running training, and its epochs."""

import json
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.checkpoint.weights import load_tensors
from models.errors import UserError
from models.files import atomic_write
from models.images.input_spec import InputSpec
from models.networks.spec import temporary_mode
from training.augment.mixing import MixedLabels, mix
from training.augment.resizing import resized, side_at_epoch
from training.augment.transforms import augment
from training.data.in_memory import InMemoryDataset
from training.data.splits import Splits
from training.data.streaming import Dataset
from training.evaluate.evaluation import logits_of
from training.events import EpochFinished, Report, StepFinished
from training.loop.learner import make_forward, make_learner, pick_device, train_step, training_forward
from training.loop.process_group import ProcessGroup
from training.loop.resume import RunState, generator_states, set_generator_states
from training.optim.freezing import count_trainable_layers, parameter_layers, set_trainable_layers
from training.recipes.recipe import Recipe

LOG_FILE = "log.jsonl"
LOSS_CHECK_INTERVAL = 50  # steps; reading a loss synchronises with the accelerator


def check_input_sizes(network: nn.Module, spec: InputSpec, sizes: Iterable[tuple[int, int]]) -> None:
    """Raises ValueError unless a network takes images of every (height, width)."""
    device = next(network.parameters()).device
    forward = make_forward(network, spec, device=device)
    for height, width in sizes:
        try:
            with temporary_mode(network):
                forward(torch.zeros(1, height, width, spec.shape[2], device=device))
        except Exception:  # custom code may raise anything
            raise UserError(
                f"images cannot be smaller at first: this network takes none of {height}x{width}, only of "
                f"{spec.height}x{spec.width} for certain; leave initial_scale at 1"
            ) from None


class LossError(UserError):
    """The loss is infinite or NaN."""


class Trainer:
    """Trains epoch by epoch. Every process of the group has its own trainer, with its share of each batch."""

    def __init__(
        self,
        network: nn.Module,
        data: Splits,
        recipe: Recipe,
        spec: InputSpec,
        facts: dict[str, Any],
        group: ProcessGroup,
    ) -> None:
        self.recipe, self.spec, self.facts, self.group = recipe, spec, facts, group
        if recipe.shift >= min(spec.height, spec.width):
            raise UserError(f"shift is {recipe.shift}; it must be below the sides of {spec.height}x{spec.width} images")
        self.device = pick_device(recipe.device, local_rank=group.local_rank if group.size > 1 else None)
        self.steps = math.ceil(len(data.train) / recipe.batch_size)
        if len(data.train) // self.steps < group.size:
            raise UserError(f"batches of {len(data.train) // self.steps} images cannot be shared by {group.size}")
        self.learner = make_learner(network, spec, recipe, steps=self.steps * recipe.epochs, device=self.device)
        if recipe.initial_scale < 1:
            check_input_sizes(network, spec, sorted({self._size(number) for number in range(1, recipe.epochs + 1)}))
        self.train = data.train.to(self.device)
        self.validation_count = len(data.validation)
        self.validation: Dataset = data.validation.to(self.device)
        if group.size > 1:
            self.validation = self.validation.take(group.shard(torch.arange(self.validation_count, device=self.device)))
        self.generators = {
            "order": torch.Generator().manual_seed(recipe.seed),  # the same in every process
            "augment": torch.Generator(self.device).manual_seed(recipe.seed + 1 + 2 * group.rank),
            "mix": torch.Generator().manual_seed(recipe.seed + 2 + 2 * group.rank),
        }
        parameters = self.learner.network.parameters()
        self.fixed = frozenset(id(parameter) for parameter in parameters if not parameter.requires_grad)
        self.history: list[EpochFinished] = []
        self.saved: int | None = None  # epochs in resume.pt
        self.compiled_for_layers = 0  # number of last layers that train

    def restore(self, state: RunState) -> None:
        if len(state.generators) != self.group.size:
            raise UserError(f"the run was by {len(state.generators)} processes; {self.group.size} cannot continue it")
        load_tensors(self.learner.network, state.weights)
        self.learner.optimizer.load_state_dict(state.optimizer)
        self.learner.schedule.load_state_dict(state.schedule)
        if self.learner.average is not None and state.average is not None:
            self.learner.average.restore(state.average["weights"], state.average["steps"])
        set_generator_states(self.generators, self.device, state.generators[self.group.rank])
        self.history = [EpochFinished.from_json(line) for line in state.history]
        self.saved = state.epoch

    def save(self, workdir: Path) -> None:
        """Writes resume.pt and log.jsonl in the main process; `saved` is the epoch in resume.pt."""
        lines = [line.to_json() for line in self.history]
        generators = self.group.gather(generator_states(self.generators, self.device))
        if not self.group.is_main:
            return
        average = self.learner.average
        RunState(
            facts=self.facts,
            recipe=self.recipe.to_json(),
            epoch=len(lines),
            history=lines,
            weights=self.learner.network.state_dict(),
            optimizer=self.learner.optimizer.state_dict(),
            schedule=self.learner.schedule.state_dict(),
            average=None if average is None else {"weights": average.network.state_dict(), "steps": average.steps},
            generators=generators,
        ).write(workdir)
        self.saved = len(lines)
        with atomic_write(workdir / LOG_FILE) as path:
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def epoch(self, number: int, report: Report) -> EpochFinished:
        """Trains, validates, and adds to the history."""
        started, rate = time.perf_counter(), float(self.learner.schedule.get_last_lr()[0])
        totals = self._pass(number, report)
        loss, accuracy = (self.group.sum(totals) / len(self.train)).tolist()
        seconds = time.perf_counter() - started
        self.group.average_buffers(self.learner.network)
        if self.learner.average is not None:
            self.group.average_buffers(self.learner.average.network)
        validation_loss, validation_accuracy = self._validate()
        if not math.isfinite(validation_loss):
            raise LossError(f"the validation loss is {validation_loss} after epoch {number}")
        done = EpochFinished(
            epoch=number,
            train_loss=loss,
            train_accuracy=accuracy,
            validation_loss=validation_loss,
            validation_accuracy=validation_accuracy,
            learning_rate=rate,
            images_per_s=len(self.train) / seconds,
            seconds=time.perf_counter() - started,
        )
        self.history.append(done)
        return done

    def _pass(self, number: int, report: Report) -> Tensor:
        self._prepare_network(number)
        size = self._size(number)
        totals, seen = torch.zeros(2, dtype=torch.float64, device=self.device), 0
        recent: list[Tensor] = []
        for step, (batch, weight) in enumerate(self._batches(), start=1):
            images, partners = self._augmented(batch)
            images = resized(images, size)
            recent.append(train_step(self.learner, images, batch.labels, partners=partners, weight=weight))
            totals += recent[-1]
            seen += len(batch)
            report(StepFinished(epoch=number, step=step, images=seen, totals=totals, processes=self.group.size))
            if step % LOSS_CHECK_INTERVAL == 0 or step == self.steps:
                self._check(number, step, torch.stack(recent)[:, 0])
                recent.clear()
        return totals

    def _prepare_network(self, number: int) -> None:
        network, recipe = self.learner.network, self.recipe
        network.train()
        layers = len(parameter_layers(network, fixed=self.fixed))
        learning = count_trainable_layers(
            layers, number, freeze_epochs=recipe.freeze_epochs, unfreeze_epochs=recipe.unfreeze_epochs
        )
        if recipe.freeze_epochs or recipe.unfreeze_epochs:
            set_trainable_layers(network, learning, fixed=self.fixed)
        if self.compiled_for_layers != learning:
            self.learner.forward = training_forward(network, self.spec, recipe, group=self.group)
            self.compiled_for_layers = learning

    def _size(self, number: int) -> tuple[int, int]:
        """The (height, width) of an epoch's training images."""
        epochs, scale = self.recipe.epochs, self.recipe.initial_scale
        height, width = (
            side_at_epoch(number, epochs, side, initial_scale=scale) for side in (self.spec.height, self.spec.width)
        )
        return height, width

    def _check(self, number: int, step: int, losses: Tensor) -> None:
        """Checks the losses of the last steps, (n,), summed over each step's images."""
        for index, loss in enumerate(self.group.sum(losses).tolist()):
            if not math.isfinite(loss):
                bad = step - len(losses) + 1 + index
                total = (number - 1) * self.steps + bad
                raise LossError(f"the training loss is {loss} at step {total} (epoch {number}, its step {bad})")

    def _batches(self) -> Iterator[tuple[InMemoryDataset, float]]:
        """Images and the weight of the loss, for this process's share of each batch.

        Every image occurs once, in random order; sizes differ by at most one, as a tiny last batch harms batch norm.
        """
        order = torch.randperm(len(self.train), generator=self.generators["order"])
        whole = order.tensor_split(self.steps)
        if isinstance(self.train, InMemoryDataset):
            whole = order.to(self.device).tensor_split(self.steps)
        shares = [self.group.shard(index) for index in whole]
        for index, batch in zip(whole, self.train.batches(shares), strict=True):
            # Gradients are averaged over the processes, so shares of unequal size are weighted by their size.
            weight = self.group.size * len(batch) / len(index) if self.group.size > 1 else 1.0
            yield batch, weight

    def _augmented(self, batch: InMemoryDataset) -> tuple[Tensor, MixedLabels | None]:
        recipe = self.recipe
        images = augment(
            batch.images,
            shift=recipe.shift,
            flip=recipe.flip,
            crop=recipe.crop,
            rotation=recipe.rotation,
            reflect=recipe.reflect,
            erasing=recipe.erasing,
            background=self.spec.background[0],
            generator=self.generators["augment"],
        )
        if not (recipe.mixup or recipe.cutmix):
            return images, None
        generator = self.generators["mix"]
        return mix(images, batch.labels, mixup=recipe.mixup, cutmix=recipe.cutmix, generator=generator)

    def _validate(self) -> tuple[float, float]:
        """Mean loss and accuracy on the validation split, over all processes."""
        self.learner.evaluation_network.eval()
        classify = make_forward(self.learner.evaluation_network, self.spec, device=self.device)
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        if len(self.validation):
            logits, labels = logits_of(classify, self.validation), self.validation.labels.to(self.device)
            sums[0] = functional.cross_entropy(logits, labels, reduction="sum")
            sums[1] = (logits.argmax(1) == labels).sum()
        loss, accuracy = (self.group.sum(sums) / self.validation_count).tolist()
        return loss, accuracy
