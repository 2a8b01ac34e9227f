"""The paired comparison of accuracies: published intervals, scipy's binomial test, coverage, and what is refused."""

from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from export.verify import accuracy
from export.verify.accuracy import LEVEL, AccuracyLoss
from export.verify.limits import Limits


def test_the_interval_is_that_of_newcombes_first_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "_Z", NormalDist().inv_cdf(0.975))  # his are at 95 %
    both, lost, gained, neither = 36, 12, 2, 0
    found = AccuracyLoss(both + lost + gained + neither, both + lost, lost, gained).interval
    assert found == pytest.approx((0.0569, 0.3404), abs=5e-5)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (0, 1), (5, 2), (40, 15), (1500, 1400)])
def test_the_chance_is_scipys_one_sided_binomial_test(lost: int, gained: int) -> None:
    wanted = stats.binomtest(lost, lost + gained, 0.5, alternative="greater").pvalue if lost + gained else 1
    assert AccuracyLoss(10_000, 9_000, lost, gained).chance == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("shares", [(0.9, 0.03, 0.02, 0.05), (0.97, 0.01, 0.01, 0.01), (0.6, 0.1, 0.2, 0.1)])
def test_the_interval_covers_the_true_loss_as_often_as_it_says(shares: tuple[float, ...]) -> None:
    draws = np.random.default_rng(0).multinomial(359, shares, size=4000).tolist()
    intervals = [AccuracyLoss(359, both + lost, lost, gained).interval for both, lost, gained, _ in draws]
    covered = np.mean([low <= shares[1] - shares[2] <= high for low, high in intervals])
    assert LEVEL - 0.02 < covered < 0.98


def test_the_counts_are_those_of_the_disagreements() -> None:
    network = np.array([True, True, True, False, False])
    file = np.array([True, False, False, True, False])
    found = AccuracyLoss.between(network, file)
    assert (found.images, found.correct, found.lost, found.gained) == (5, 3, 2, 1)
    assert found.loss == pytest.approx(network.mean() - file.mean())


@pytest.mark.parametrize(
    ("images", "lost", "gained", "points", "refused"),
    [
        (359, 0, 0, 0.2, False),
        (359, 1, 0, 0.2, False),  # 0.28 points, which are one image
        (359, 3, 0, 0.2, False),  # 0.84 points: chance 1/8
        (359, 4, 0, 0.2, True),  # 1.1 points: more than five times the limit
        (10_000, 20, 0, 0.2, False),  # the limit itself
        (10_000, 21, 0, 0.2, True),  # a loss that is sure
        (10_000, 55, 30, 0.2, True),
        (10_000, 430, 405, 0.2, False),  # 0.25 points: chance 0.2
        (10_000, 40, 15, 0.3, False),
        (10_000, 1, 0, 0.0, True),  # no loss at all is wanted
        (50, 1, 0, 0.2, True),  # 2 points
        (50, 0, 9, 0.2, False),  # it is better
    ],
)
def test_a_loss_above_the_limit_is_refused_unless_it_may_be_chance(
    images: int, lost: int, gained: int, points: float, refused: bool
) -> None:
    loss = AccuracyLoss(images, images - 20, lost, gained)
    assert loss.is_refused(Limits(accuracy_loss=points / 100)) == refused
    reason = loss.refusal(Limits(accuracy_loss=points / 100))
    assert bool(reason) == refused
    if refused:
        assert f"of {images:,} it loses {lost} and gains {gained}" in reason
        flag = float(reason.split("--limit-points ")[1].split()[0])
        assert not loss.is_refused(Limits(accuracy_loss=flag / 100))
        assert loss.is_refused(Limits(accuracy_loss=(flag - 0.02) / 100)) or loss.chance > 0.05 or flag < 0.02


def test_the_message_is_complete() -> None:
    reason = AccuracyLoss(1000, 990, 30, 5).refusal(Limits())
    assert reason == (
        "96.50% of the test images instead of 99.00%: of 1,000 it loses 30 and gains 5, a loss of 2.50 points (90% "
        "interval 1.56 to 3.57); at most 0.2 points may be lost; --limit-points 2.5 keeps it"
    )
