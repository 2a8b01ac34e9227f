"""How far a map can be trusted: what the network answers when the places it marks are taken away, or alone are left."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.images.decode import Floats
from service.inspection.explain.maps import gaussian_blur, positive
from service.inspection.explain.served import ServedImage

STEPS = 50
_BLURS = (1 / 20, 1 / 10, 1 / 5, 2 / 5)  # standard deviations, by the image's shorter side


@dataclass(frozen=True)
class Trust:
    """Measures of one map; probabilities are of the explained class.

    Deletion and insertion: Petsiuk et al., RISE (2018), sec. 4.2. Average drop and increase: Chattopadhay et al.,
    Grad-CAM++ (2018), sec. 4.1.

    Attributes:
        fractions: part of the pixels that were changed, from 0 to 1, the highest of the map first.
        deletion: probabilities when these are replaced by the mean colour; the sooner they fall, the better.
        insertion: probabilities when these replace a blurred image; the sooner they rise, the better. The blur is the
            weakest that takes half of the probability away, as a slightly blurred digit is still that digit.
        drop: the part of the probability, in [0, 1], that is lost when the image is dimmed by the map.
        increase: True if it rises instead.
    """

    fractions: Floats
    deletion: Floats
    insertion: Floats
    drop: float
    increase: bool

    @property
    def deletion_area(self) -> float:
        """Area under the curve, in [0, 1]; small is good."""
        return float(np.trapezoid(self.deletion, self.fractions))

    @property
    def insertion_area(self) -> float:
        """Area under the curve, in [0, 1]; large is good."""
        return float(np.trapezoid(self.insertion, self.fractions))


def measure_trust(served: ServedImage, values: Floats, index: int) -> Trust:
    """Runs the network about a hundred times.

    Args:
        values: the map (H, W), not empty.
        index: of the class.
    """
    order = np.argsort(-values.ravel(), kind="stable")
    counts = np.unique(np.linspace(0, values.size, min(STEPS, values.size) + 1).round().astype(int))
    ranks = np.empty(values.size, np.int64)
    ranks[order] = np.arange(values.size)
    kept = (ranks >= counts[:, np.newaxis]).astype(np.float32).reshape(-1, *values.shape)  # (steps, H, W)
    start = served.pixels.start
    original = float(served.probabilities[0, index])
    blurred = _blurred(served, index, original / 2)

    def curve(masks: Floats, over: npt.NDArray[Any]) -> Floats:
        found = np.empty(len(masks), np.float32)
        for part in served.watch.batches(len(masks), served.batch_of(start.size)):
            found[part] = served.pixels.run(served.masked(masks[part], over=over))[0][:, index]
        return found

    dimmed = float(served.pixels.run(served.masked(positive(values)[np.newaxis]))[0][0, index])
    return Trust(
        fractions=(counts / values.size).astype(np.float32),
        deletion=curve(kept, served.baseline),
        insertion=curve(1 - kept, blurred),
        drop=max(0.0, original - dimmed) / original if original > 0 else 0.0,
        increase=dimmed > original,
    )


def _blurred(served: ServedImage, index: int, wanted: float) -> Floats:
    """The image, blurred until the class has at most the wanted probability, or as much as is tried."""
    start = served.pixels.start.astype(np.float32)
    nothing = np.zeros((1, *served.size), np.float32)
    for share in _BLURS:
        blurred = gaussian_blur(start, max(1.0, share * min(served.size)), served.place_axes)
        if served.pixels.run(served.masked(nothing, over=blurred))[0][0, index] <= wanted:
            break
    return blurred
