"""What a training run tells while it goes on; whoever starts it decides how to show it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Started:
    """Once, before the first epoch (or the first after a resumption). `shape` is (height, width, channels)."""

    directory: Path
    model: str
    parameters: int
    dataset: str
    classes: tuple[str, ...]
    counts: dict[str, int]
    shape: tuple[int, int, int]
    device: str
    precision: str
    first_epoch: int
    epochs: int
    processes: int = 1
    streamed: bool = False
    left_out: int = 0
    test_folder: str = ""  # that is measured on for want of one called test
    duplicates: int = 0  # test images that are learnt from, too
    weights: str = ""  # what was taken from a file


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """After each step. `totals` stays on the device, as reading it makes the device wait: do so seldom.

    Attributes:
        epoch: from 1.
        step: in this epoch, from 1.
        images: in this epoch so far.
        totals: float64 (2,), loss summed over these images, and how many of them were right.
        processes: that train together; images and totals are of the one that tells.
    """

    epoch: int
    step: int
    images: int
    totals: Tensor
    processes: int = 1


@dataclass(frozen=True, kw_only=True)
class EpochDone:
    """A line of log.jsonl: losses in nats, accuracies in [0, 1]. Training figures are of augmented images."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    images_per_s: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> "EpochDone":
        """Reads what `to_json` gave."""
        return cls(**line)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Once, when the checkpoint is there."""

    directory: Path
    metrics: dict[str, dict[str, float]]
    seconds: float


Event = Started | StepDone | EpochDone | Finished
Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """Shows nothing."""
