"""Metrics from probabilities and labels: top-k accuracy, precision, recall, F1, calibration error.

Not scikit-learn's: it breaks top-k ties towards the later class, has no calibration error, and takes 1 s to import.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Counts = npt.NDArray[np.int64]

BINS = 15  # as in Guo et al. (2017), table 1


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall and their harmonic mean F1 of each class, (K,) each, in [0, 1].

    As in scikit-learn, 0/0 is 0: the precision of a class that is never predicted, the recall of an absent one.
    """

    precision: Floats
    recall: Floats
    f1: Floats
    images: Counts


@dataclass(frozen=True)
class Reliability:
    """Images by confidence, the probability of the predicted class, in bins of equal width over [0, 1].

    Attributes:
        edges: (B + 1,), edges of the bins; each bin includes its upper edge.
        counts: (B,), number of images.
        confidence: (B,), mean confidence, 0 for an empty bin.
        accuracy: (B,), share of correct predictions, 0 for an empty bin.
    """

    edges: Floats
    counts: Counts
    confidence: Floats
    accuracy: Floats

    @property
    def calibration_error(self) -> float:
        """Expected calibration error, in [0, 1]: Guo et al., On Calibration of Modern Neural Networks (2017), eq. 3."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float((self.counts * gaps).sum() / max(1, self.counts.sum()))


def reliability(probabilities: Floats, labels: Counts, *, bins: int = BINS) -> Reliability:
    """Bins (N, K) probabilities by their maximum, and computes each bin's mean confidence and accuracy."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)  # (a, b]
    counts = np.bincount(index, minlength=bins)
    some = np.maximum(counts, 1)
    return Reliability(
        np.linspace(0, 1, bins + 1),
        counts,
        np.bincount(index, weights=confidence, minlength=bins) / some,
        np.bincount(index, weights=right.astype(np.float64), minlength=bins) / some,
    )


def class_scores(confusion: Counts) -> ClassScores:
    """Precision, recall and F1 of each class from images by (label, prediction), (K, K)."""
    right, images, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return ClassScores(
        precision=right / np.maximum(predicted, 1),
        recall=right / np.maximum(images, 1),
        f1=2 * right / np.maximum(images + predicted, 1),
        images=images,
    )


def top_k_accuracy(probabilities: Floats, labels: Counts, *, k: int) -> float:
    """Share of images whose label is among the k most probable classes; ties go to the earlier class."""
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)  # (N, 1)
    earlier = np.arange(probabilities.shape[1]) < labels[:, None]
    ahead = (probabilities > own) | ((probabilities == own) & earlier)
    return float((ahead.sum(axis=1) < k).mean())
