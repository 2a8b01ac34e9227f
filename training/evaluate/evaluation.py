"""Evaluates a classifier on labelled images: probabilities and metrics."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from models.errors import UserError
from training.data.streaming import Dataset, sequential_batches
from training.evaluate.metrics import ClassScores, Reliability, class_scores, reliability, top_k_accuracy

Classify = Callable[[Tensor], Tensor | npt.NDArray[np.float32]]
BATCH = 250


@dataclass(frozen=True)
class Evaluation:
    """The outcome for N images and K classes.

    Attributes:
        loss: mean negative log-likelihood of the labels, in nats.
        probabilities: float32 (N, K), rows sum to 1.
        labels: int64 (N,).
    """

    loss: float
    probabilities: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, *, temperature: float = 1.0) -> "Evaluation":
        """Evaluates logits (N, K), divided by the temperature, against labels (N,)."""
        scaled = logits / temperature
        loss = functional.cross_entropy(scaled, labels)
        return cls(loss.item(), scaled.softmax(1).cpu().numpy(), labels.cpu().numpy())

    @cached_property
    def predictions(self) -> npt.NDArray[np.int64]:
        """The most probable class of each image, (N,)."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    @property
    def accuracy(self) -> float:
        """Share of images whose most probable class is their label, in [0, 1]."""
        return float((self.predictions == self.labels).mean())

    @property
    def top5_accuracy(self) -> float:
        """Share of images whose label is among the five most probable classes, in [0, 1]."""
        return top_k_accuracy(self.probabilities, self.labels, k=5)

    @property
    def tells_top5(self) -> bool:
        """True if there are more than five classes; with fewer the top-5 accuracy is always 1."""
        return bool(self.probabilities.shape[1] > 5)

    @cached_property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Images by (label, prediction), (K, K)."""
        k = self.probabilities.shape[1]
        return np.bincount(self.labels * k + self.predictions, minlength=k * k).reshape(k, k)

    @property
    def scores(self) -> ClassScores:
        """Precision, recall and F1 of each class."""
        return class_scores(self.confusion)

    @property
    def worst_class(self) -> int:
        """The class with the lowest recall, of those that have images."""
        scores = self.scores
        return int(np.where(scores.images > 0, scores.recall, np.inf).argmin())

    @property
    def worst_recall(self) -> float:
        """The recall of that class, in [0, 1]; an accuracy can hide a class that is never right."""
        return float(self.scores.recall[self.worst_class])

    @cached_property
    def reliability(self) -> Reliability:
        """Accuracy by confidence."""
        return reliability(self.probabilities, self.labels)

    def most_confident_mistakes(self, count: int) -> npt.NDArray[np.int64]:
        """Up to `count` indices of misclassified images, the most confident first."""
        wrong = np.flatnonzero(self.predictions != self.labels)
        return wrong[np.argsort(-self.probabilities[wrong].max(axis=1), kind="stable")][:count]

    def to_json(self) -> dict[str, float]:
        """The metrics for config.json; top-5 only for more than 5 classes, as it is 1 otherwise."""
        top5 = {"top5_accuracy": self.top5_accuracy} if self.tells_top5 else {}
        return {
            "accuracy": self.accuracy,
            **top5,
            "worst_recall": self.worst_recall,
            "loss": self.loss,
            "calibration_error": self.reliability.calibration_error,
        }


def logits_of(classify: Classify, images: Dataset, *, batch_size: int = BATCH) -> Tensor:
    """Runs a classifier over all images in batches; returns float32 logits (N, K).

    `classify` takes uint8 (n, H, W, C) on the device of `images` and returns logits (n, K), a tensor or an array.

    Raises:
        ValueError: there are no images.
    """
    if not len(images):
        raise UserError("there are no images to evaluate on")
    with torch.inference_mode():
        batches = images.batches(sequential_batches(len(images), batch_size))
        return torch.cat([torch.as_tensor(classify(batch.images)).float() for batch in batches])


def evaluate(classify: Classify, images: Dataset, *, batch_size: int = BATCH, temperature: float = 1.0) -> Evaluation:
    """Evaluates a classifier on all images (see `logits_of`), with its logits divided by `temperature`."""
    logits = logits_of(classify, images, batch_size=batch_size)
    with torch.inference_mode():
        return Evaluation.of(logits, images.labels.to(logits.device), temperature=temperature)
