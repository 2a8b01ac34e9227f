"""Runs of seconds: a tiny network on a few digits."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.images.input_spec import InputSpec
from training.data.splits import Splits
from training.events import ignore_events
from training.loop.fit import FitResult, fit
from training.loop.resume import fork_rng
from training.recipes.recipe import Recipe

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=3, batch_size=16, shift=1, flip=True, validation_fraction=0.2, device="cpu")


class Tiny(nn.Module):
    """Convolution, batch norm and dropout: state of every kind that a resumed run must bring back."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 10)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # type: ignore[no-any-return]

    @classmethod
    def holding(cls, weights: dict[str, torch.Tensor]) -> "Tiny":
        network = cls().eval()
        network.load_state_dict(weights)
        return network


def tiny() -> nn.Module:
    """The same weights each time."""
    with fork_rng(0, CPU):
        return Tiny()


def train(digits: tuple[InputSpec, Splits], workdir: Path, recipe: Recipe = RECIPE, **more: Any) -> FitResult:
    """Trains `tiny()`; `more` goes to `fit`."""
    spec, data = digits
    return fit(tiny(), data, recipe, workdir, more.pop("report", ignore_events), spec=spec, **more)


def same(first: FitResult, second: FitResult) -> bool:
    """True if weights and history, but for the seconds, are equal to the bit."""

    def figures(result: FitResult) -> list[tuple[float, ...]]:
        return [
            (line.train_loss, line.train_accuracy, line.validation_loss, line.validation_accuracy)
            for line in result.history
        ]

    equal = all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)
    return equal and figures(first) == figures(second)
