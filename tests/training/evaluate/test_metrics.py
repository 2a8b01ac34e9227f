"""Metrics against scikit-learn's, calibration against hand-worked bins, temperature against scipy's minimiser."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn import metrics
from torch.nn import functional

from training.evaluate.evaluation import Evaluation
from training.evaluate.metrics import reliability, top_k_accuracy
from training.evaluate.plots import draw_reliability, write_figures
from training.evaluate.report import evaluation_json
from training.evaluate.temperature import fit_temperature

K, N = 8, 400
LABELS = torch.randint(K - 1, (N,), generator=torch.Generator().manual_seed(1))  # the last class does not occur
NOISE = torch.randn(N, K, generator=torch.Generator().manual_seed(0))
LOGITS = 2 * functional.one_hot(LABELS, K) + NOISE


@pytest.mark.parametrize("scale", [0.2, 1.0, 6.0])
def test_the_temperature_is_that_of_scipys_minimiser(scale: float) -> None:
    logits = (LOGITS * scale).double()

    def loss(temperature: float) -> float:
        return functional.cross_entropy(logits / temperature, LABELS).item()

    best = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9})
    assert fit_temperature(logits, LABELS) == pytest.approx(best.x, rel=1e-5)


def test_a_temperature_changes_no_prediction_and_betters_the_calibration() -> None:
    logits = LOGITS * 6
    before = Evaluation.of(logits, LABELS)
    after = Evaluation.of(logits, LABELS, temperature=fit_temperature(logits, LABELS))
    assert np.array_equal(before.predictions, after.predictions) and after.loss < before.loss
    assert after.reliability.calibration_error < before.reliability.calibration_error / 2


def test_few_images_move_no_temperature_of_a_calibrated_network() -> None:
    """Labels drawn from the probabilities themselves: nothing is to be corrected, and a fit follows the chance."""
    kept, losses = 0, []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        logits = 2 * torch.randn(90 + 2000, K, generator=generator)
        labels = logits.softmax(1).multinomial(1, generator=generator)[:, 0]
        temperature = fit_temperature(logits[:90], labels[:90])
        kept += temperature == 1
        scaled = [functional.cross_entropy(logits[90:] / by, labels[90:]).item() for by in (1.0, temperature)]
        losses.append(scaled[1] - scaled[0])
    assert kept >= 40
    assert sum(losses) / 60 < 0.01
    assert fit_temperature(3 * logits[:400], labels[:400]) == pytest.approx(3, rel=0.2)  # with evidence it is fitted


def test_the_lowest_recall_shows_what_the_accuracy_hides() -> None:
    labels = torch.tensor([0] * 99 + [1])
    result = Evaluation.of(torch.tensor([[9.0, 0.0, 0.0]]).repeat(100, 1), labels)
    assert result.accuracy == 0.99
    assert (result.worst_class, result.worst_recall) == (1, 0)  # class 2 has no images
    assert result.to_json()["worst_recall"] == 0


@pytest.mark.parametrize("mistakes", [0, 1, 4, 5])
def test_one_mistake_decides_no_temperature(mistakes: int) -> None:
    logits = 9 * functional.one_hot(LABELS, K).float()
    for i in range(mistakes):
        logits[i, LABELS[i] - 1] = 9.1  # narrow ones: their optimum is far below 1
    assert (fit_temperature(logits, LABELS) == 1) == (mistakes < 5)


@pytest.mark.parametrize(
    ("logits", "message"),
    [(torch.zeros(0, K), "no images to fit a temperature on"), (torch.full((2, K), torch.nan), "not finite")],
)
def test_what_gives_no_temperature_is_refused(logits: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, LABELS[: len(logits)])


def test_precision_recall_and_f1_are_scikit_learns() -> None:
    result = Evaluation.of(LOGITS, LABELS)
    wanted = metrics.precision_recall_fscore_support(LABELS, result.predictions, labels=range(K), zero_division=0)
    scores = result.scores
    for ours, reference in zip((scores.precision, scores.recall, scores.f1, scores.images), wanted, strict=True):
        assert ours == pytest.approx(reference)


def test_macro_averages_are_scikit_learns_over_the_classes_that_are_there() -> None:
    result = Evaluation.of(LOGITS + 3 * functional.one_hot(torch.tensor(K - 1), K), LABELS)
    assert (result.predictions == K - 1).any(), "the absent class is to be predicted"
    content = evaluation_json(result, result, classes=[f"c{i}" for i in range(K)])
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        LABELS, result.predictions, labels=np.unique(LABELS), average="macro", zero_division=0
    )
    assert [content[f"macro_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(
        [precision, recall, f1]
    )


@pytest.mark.parametrize("k", [1, 2, 5, K])
def test_top_k_accuracy_is_scikit_learns(k: int) -> None:
    probabilities = LOGITS.softmax(1).numpy()
    wanted = metrics.top_k_accuracy_score(LABELS, probabilities, k=k, labels=range(K)) if k < K else 1.0
    assert top_k_accuracy(probabilities, LABELS.numpy(), k=k) == pytest.approx(wanted)


def test_equal_probabilities_are_counted_once() -> None:
    assert top_k_accuracy(np.full((4, 4), 0.25), np.arange(4), k=2) == 0.5


def test_the_calibration_error_is_the_hand_worked_one() -> None:
    probabilities = np.array([[0.9, 0.1], [0.85, 0.15], [0.4, 0.6], [0.0, 1.0]])  # bins of 0.2: (0.8, 1] and (0.4, 0.6]
    found = reliability(probabilities, np.array([0, 1, 1, 1]), bins=5)
    assert found.counts.tolist() == [0, 0, 1, 0, 3]
    assert found.calibration_error == pytest.approx((1 * 0.4 + 3 * abs(2 / 3 - 2.75 / 3)) / 4)


def test_the_report_is_primitives_and_complete() -> None:
    result = Evaluation.of(LOGITS, LABELS)
    content = evaluation_json(result, result, classes=[f"c{i}" for i in range(K)])
    assert sum(row["images"] for row in content["classes"]) == sum(b["images"] for b in content["reliability"]) == N
    surest = [mistake["probability"] for mistake in content["most_confident_mistakes"]]
    assert surest == sorted(surest, reverse=True) and len(surest) == 25
    assert all(mistake["label"] != mistake["predicted"] for mistake in content["most_confident_mistakes"])


def test_the_reliability_diagram_is_drawn_with_and_without_a_temperature(tmp_path: Path) -> None:
    result = Evaluation.of(LOGITS, LABELS)
    write_figures(tmp_path, {"one.png": draw_reliability(result), "two.png": draw_reliability(result, result)})
    assert {path.name for path in tmp_path.iterdir()} == {"one.png", "two.png"}
