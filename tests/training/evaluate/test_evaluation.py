"""Metrics against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from training.data.in_memory import InMemoryDataset
from training.evaluate.evaluation import evaluate

K, N = 4, 50
LOGITS = torch.randn(N, K, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(K - 1, (N,), generator=torch.Generator().manual_seed(1))  # the last class does not occur
IMAGES = InMemoryDataset(torch.arange(N, dtype=torch.uint8).view(N, 1, 1, 1), LABELS)


def look_up(images: torch.Tensor) -> torch.Tensor:
    return LOGITS[images.flatten().long()]


@pytest.mark.parametrize("batch_size", [1, 7, 50, 1000])
@pytest.mark.parametrize("as_array", [False, True])
def test_metrics_are_those_of_scikit_learn(batch_size: int, as_array: bool) -> None:
    outcome = evaluate(
        lambda images: look_up(images).numpy() if as_array else look_up(images), IMAGES, batch_size=batch_size
    )
    predictions = LOGITS.argmax(1).numpy()
    assert outcome.accuracy == pytest.approx(metrics.accuracy_score(LABELS, predictions))
    assert np.array_equal(outcome.confusion, metrics.confusion_matrix(LABELS, predictions, labels=range(K)))
    assert outcome.loss == pytest.approx(metrics.log_loss(LABELS, outcome.probabilities, labels=range(K)), rel=1e-5)
    assert np.allclose(outcome.probabilities.sum(1), 1, atol=1e-6)


def test_no_images_are_an_error() -> None:
    with pytest.raises(ValueError, match="no images to evaluate on"):
        evaluate(look_up, InMemoryDataset(IMAGES.images[:0], LABELS[:0]))


def test_no_gradients_are_kept() -> None:
    weight = torch.ones(K, requires_grad=True)
    assert evaluate(lambda images: look_up(images) * weight, IMAGES).probabilities.shape == (N, K)
