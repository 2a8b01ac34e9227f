"""Judges whether a file of lower precision keeps the accuracy, by the images on which it and the network disagree."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from export.verify.limits import Limits

Correct = npt.NDArray[np.bool_]  # (N,), for each test image

LEVEL = 0.9  # of the interval; its lower end is exceeded with 95 %
SIGNIFICANT = 0.05
FAR = 5  # times the limit: such a loss is refused even if there are too few images to be sure of it
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class AccuracyLoss:
    """A paired comparison of a file with the network, on the same test images.

    Attributes:
        images: of the test split.
        correct: of them, those that the network classifies correctly.
        lost, gained: those that only the network, and only the file, classifies correctly.
    """

    images: int
    correct: int
    lost: int
    gained: int

    @classmethod
    def between(cls, network: Correct, file: Correct) -> "AccuracyLoss":
        """Compares two arrays (N,)."""
        lost, gained = int((network & ~file).sum()), int((file & ~network).sum())
        return cls(len(network), int(network.sum()), lost, gained)

    @property
    def loss(self) -> float:
        """The network's accuracy minus the file's, as a share."""
        return (self.lost - self.gained) / self.images

    @property
    def chance(self) -> float:
        """Probability of at least as many losses among the disagreements if losses and gains are equally likely.

        The exact one-sided McNemar test: McNemar, Psychometrika 12 (1947); a binomial tail with p = 1/2.
        """
        n, ways = self.lost + self.gained, [0.0]
        for k in range(self.lost, n + 1):
            ways.append(math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)))
        return min(1.0, math.fsum(ways))

    @property
    def interval(self) -> tuple[float, float]:
        """The confidence interval of the loss at `LEVEL`.

        Newcombe, Improved confidence intervals for the difference between binomial proportions based on paired data,
        Statistics in Medicine 17 (1998), method 10: Wilson's score intervals of both, with their correlation.
        """
        n, b, c = self.images, self.lost, self.gained
        a, d = self.correct - b, n - self.correct - c
        (p1, l1, u1), (p2, l2, u2) = _wilson(a + b, n), _wilson(a + c, n)
        margins, product = (a + b) * (c + d) * (a + c) * (b + d), float(a * d - b * c)
        product = max(product - n / 2, 0.0) if product > 0 else product  # the paper's continuity correction
        phi = product / math.sqrt(margins) if margins else 0.0

        def width(one: float, other: float) -> float:
            return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))

        return self.loss - width(p1 - l1, u2 - p2), self.loss + width(u1 - p1, p2 - l2)

    def is_refused(self, limits: Limits) -> bool:
        """True if the loss is above the limit, and either significant or above `FAR` times the limit."""
        limit = limits.accuracy_loss + 1e-12  # a share of images that is the limit itself is not above it
        return self.loss > limit and (self.chance <= SIGNIFICANT or self.loss > FAR * limit)

    def describe(self) -> str:
        """Both accuracies, the disagreements, and the loss with its interval."""
        low, high = self.interval
        wanted, found = self.correct / self.images, self.correct / self.images - self.loss
        return (
            f"{found:.2%} of the test images instead of {wanted:.2%}: of {self.images:,} it loses {self.lost:,} and "
            f"gains {self.gained:,}, a loss of {100 * self.loss:.2f} points ({LEVEL:.0%} interval {100 * low:.2f} to "
            f"{100 * high:.2f})"
        )

    def refusal(self, limits: Limits) -> str:
        """The reason to leave the file out, with the flag that keeps it; empty if it is kept."""
        if not self.is_refused(limits):
            return ""
        keeping = math.ceil(1e4 * self.loss - 1e-6) / 100
        return (
            f"{self.describe()}; at most {100 * limits.accuracy_loss:g} points may be lost; "
            f"--limit-points {keeping:g} keeps it"
        )


def _wilson(count: int, n: int) -> tuple[float, float, float]:
    """A proportion, and its score interval: Wilson, Journal of the American Statistical Association 22 (1927)."""
    p, z2 = count / n, _Z**2
    centre, half = 2 * count + z2, _Z * math.sqrt(z2 + 4 * count * (1 - p))
    return p, (centre - half) / (2 * (n + z2)), (centre + half) / (2 * (n + z2))
