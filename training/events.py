"""Events reported by a training run; the caller decides how to show them."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """Reported once, before the first epoch (also after a resumption). `shape` is (height, width, channels)."""

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
    left_out: int = 0  # damaged files
    passed_over: dict[str, int] = field(default_factory=dict)  # files by suffix that are no images
    ambiguous: tuple[int, tuple[str, str]] | None = None  # contents that are in two classes, and the first two files
    dark: str = ""  # a sentence about images that are nearly black
    test_folder: str = ""  # used in place of a missing test/
    no_onnx: str = ""  # why the network cannot be converted to ONNX
    duplicates: int = 0  # test images that are also training images
    weights: str = ""  # description of the initial weights


@dataclass(frozen=True, kw_only=True)
class StepFinished:
    """Reported after each step; `epoch` and `step` count from 1.

    Attributes:
        images: number of images so far in this epoch, in this process.
        totals: float64 (2,), loss summed over these images, and the number of correct predictions; on the device, as
            reading it synchronises with an accelerator.
        processes: number of processes that train together.
    """

    epoch: int
    step: int
    images: int
    totals: Tensor
    processes: int = 1


@dataclass(frozen=True, kw_only=True)
class EpochFinished:
    """A line of log.jsonl: losses in nats, accuracies in [0, 1]. Training metrics are on augmented images."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    images_per_s: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The fields as a dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> "EpochFinished":
        """Parses the result of `to_json`."""
        return cls(**line)


@dataclass(frozen=True, kw_only=True)
class RunFinished:
    """Reported once, when the checkpoint is complete."""

    directory: Path
    metrics: dict[str, dict[str, float]]
    seconds: float
    worst_class: str = ""  # of the test split, by recall
    missing_pictures: str = ""  # why pictures could not be drawn


Event = RunStarted | StepFinished | EpochFinished | RunFinished
Report = Callable[[Event], None]


def ignore_events(event: Event) -> None:
    """Ignores all events."""
