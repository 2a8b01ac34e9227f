"""What a classifier makes of labelled images: accuracy, loss, confusion matrix."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from training.tensors import Images

Classify = Callable[[Tensor], Tensor | npt.NDArray[np.float32]]


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

    @property
    def predictions(self) -> npt.NDArray[np.int64]:
        """The most probable class of each image, (N,)."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    @property
    def accuracy(self) -> float:
        """Share of images whose most probable class is their label, in [0, 1]."""
        return float((self.predictions == self.labels).mean())

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Images by (label, prediction), (K, K)."""
        k = self.probabilities.shape[1]
        return np.bincount(self.labels * k + self.predictions, minlength=k * k).reshape(k, k)

    def to_json(self) -> dict[str, float]:
        """The metrics as config.json has them."""
        return {"accuracy": self.accuracy, "loss": self.loss}


def evaluate(classify: Classify, images: Images, *, batch_size: int = 250) -> Evaluation:
    """Runs a classifier over all images, batch by batch.

    Args:
        classify: takes uint8 (n, H, W, C) on the device of `images` and returns logits (n, K), a tensor or an array.
        images: at least one.
        batch_size: images a call.

    Raises:
        ValueError: there are no images.
    """
    if not len(images):
        raise ValueError("there are no images to evaluate on")
    with torch.inference_mode():
        batches = (images.images[start : start + batch_size] for start in range(0, len(images), batch_size))
        logits = torch.cat([torch.as_tensor(classify(batch)).float() for batch in batches])  # (N, K)
        labels = images.labels.to(logits.device)
        loss = functional.cross_entropy(logits, labels)
        probabilities = logits.softmax(1)
    return Evaluation(loss.item(), probabilities.cpu().numpy(), labels.cpu().numpy())
