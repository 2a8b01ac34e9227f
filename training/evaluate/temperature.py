"""Temperature scaling: Guo et al., On Calibration of Modern Neural Networks (2017), section 4.2."""

import math

from torch import Tensor

from models.errors import UserError

LOWEST, HIGHEST = 0.05, 20.0
MIN_IMAGES, MIN_MISTAKES = 50, 5  # with fewer, a single mistake decides
BISECTION_STEPS = 60


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature, in [0.05, 20], that maximises the likelihood of `labels` when logits are divided by it.

    The negative log-likelihood is convex in the inverse temperature, so its slope is bisected. With fewer than 50
    images or 5 mistakes the result is 1: without mistakes the likelihood increases all the way to temperature 0, and
    with a single narrow one the optimum is close to 0. Logits (N, K) must be of images not used for training.

    Raises:
        ValueError: there are no images, or logits that are not finite.
    """
    if not len(labels):
        raise UserError("there are no images to fit a temperature on")
    logits, labels = logits.detach().cpu().double(), labels.cpu()
    if not bool(logits.isfinite().all()):
        raise UserError("a temperature cannot be fitted to logits that are not finite")
    own = logits.gather(1, labels[:, None]).squeeze(1)  # (N,)
    if len(labels) < MIN_IMAGES or int((own < logits.amax(1)).sum()) < MIN_MISTAKES:
        return 1.0

    def slope(inverse: float) -> float:
        """Derivative of the mean negative log-likelihood: mean logit under the prediction, minus the label's."""
        return float(((logits * inverse).softmax(1) * logits).sum(1).mean() - own.mean())

    low, high = math.log(1 / HIGHEST), math.log(1 / LOWEST)
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(math.exp(middle)) > 0 else (middle, high)
    return 1 / math.exp((low + high) / 2)
