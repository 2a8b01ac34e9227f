"""How far an image lies outside of what is normal, layer by layer."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

LIMIT = 99  # per cent of the indexed images that count as normal
COMPONENTS = 64
_FURTHEST = 3
_FLOOR = 0.01  # of the typical variance or deviation: directions that hardly vary would decide alone


@dataclass(frozen=True)
class Distribution:
    """A normal distribution of channel means, by probabilistic principal component analysis.

    It has full covariance along the first principal components, and one variance in all other directions (Tipping and
    Bishop, Probabilistic Principal Component Analysis, 1999).

    Attributes:
        mean, std: (C,) of each channel; `std` is not nearly zero.
        components: (d, C) orthonormal directions in standardised channels.
        variances: (d,) along them.
        rest: variance in the other directions.
    """

    mean: Floats
    std: Floats
    components: Floats
    variances: Floats
    rest: float

    @classmethod
    def fit(cls, sample: Floats, mean: Floats, std: Floats) -> "Distribution":
        """Fits components to channel means (N, C) of images; at most one for four images."""
        std = floored(std)
        standardised = (sample - mean) / std
        _, sizes, directions = np.linalg.svd(standardised, full_matrices=False)
        variances = sizes**2 / len(sample)
        count = min(COMPONENTS, len(sample) // 4, len(mean))
        rest = float(variances[count:].sum() / max(1, len(mean) - count))
        return cls(mean, std, directions[:count], np.maximum(variances[:count], _FLOOR), max(rest, _FLOOR))

    def distances(self, means: Floats) -> Floats:
        """Mahalanobis distances (N,) of the channel means (N, C) of images, by the square root of C: 1 is typical."""
        standardised = (means - self.mean) / self.std
        along = standardised @ self.components.T
        across = np.maximum((standardised**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        squares = (along**2 / self.variances).sum(axis=1) + across / self.rest
        return np.sqrt(squares / len(self.mean))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class UnusualChannel:
    """A channel far from its mean.

    Attributes:
        channel: its index.
        mean: over its places, for this image.
        normal_mean, normal_std: of that, over the indexed images.
    """

    channel: int
    mean: float
    normal_mean: float
    normal_std: float


@dataclass(frozen=True)
class Normality:
    """How far one layer's value lies from those of the indexed images.

    Attributes:
        layer: its name.
        distance: Mahalanobis distance of the channels' means, see `Distribution.distances` (Lee et al., A Simple
            Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks, 2018, take such
            distances of every layer). 1 is typical.
        limit: distance that 99 % of indexed images stay within.
        nearer: share of indexed images with a smaller distance, in [0, 1].
        channels: those furthest from their own means in standard deviations, the furthest first.
    """

    layer: str
    distance: float
    limit: float
    nearer: float
    channels: tuple[UnusualChannel, ...]

    @property
    def unusual(self) -> bool:
        """True beyond the limit."""
        return self.distance > self.limit


def floored(std: Floats) -> Floats:
    """Standard deviations (C,) without those that are nearly zero beside the others."""
    typical = float(np.sqrt((std.astype(np.float64) ** 2).mean()))
    return np.maximum(std, _FLOOR * typical if typical else 1.0)


def normality(layer: str, means: Floats, normal: Distribution, quantiles: Floats) -> Normality:
    """Compares the channel means (C,) of one image with those of the indexed images.

    Args:
        normal: their distribution.
        quantiles: 0 %, 1 % up to 100 % of the distances of images that it was not fitted to.
    """
    distance = float(normal.distances(means[np.newaxis])[0])
    nearer = float(np.interp(distance, quantiles, np.linspace(0, 1, len(quantiles)))) if quantiles[-1] > 0 else 0.0
    apart = np.abs(means - normal.mean) / normal.std
    furthest = np.argsort(-apart, kind="stable")[:_FURTHEST].tolist()
    channels = tuple(
        UnusualChannel(one, float(means[one]), float(normal.mean[one]), float(normal.std[one])) for one in furthest
    )
    return Normality(layer, distance, float(quantiles[LIMIT]), nearer, channels)
