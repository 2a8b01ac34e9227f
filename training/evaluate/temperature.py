"""Temperature scaling: Guo et al., On Calibration of Modern Neural Networks (2017), section 4.2."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from models.errors import UserError

LOWEST, HIGHEST = 0.05, 20.0
MIN_IMAGES, MIN_MISTAKES = 50, 5  # with fewer, a single mistake decides
BISECTION_STEPS = 60
FOLDS = 5


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature, in [0.05, 20], that maximises the likelihood of `labels` when logits are divided by it.

    It is 1 unless there is evidence that another one helps on images that it was not fitted to: in a cross-validation
    with 5 folds the likelihood must increase by more than one standard error. It is also 1 with fewer than 50 images
    or 5 mistakes: without mistakes the likelihood increases all the way to temperature 0, and with a single narrow one
    the optimum is close to 0. Logits (N, K) must be of images not used for training.

    Raises:
        ValueError: there are no images, or logits that are not finite.
    """
    if not len(labels):
        raise UserError("there are no images to fit a temperature on")
    logits, labels = logits.detach().cpu().double(), labels.cpu()
    if not bool(logits.isfinite().all()):
        raise UserError("a temperature cannot be fitted to logits that are not finite")
    mistakes = int((logits.argmax(1) != labels).sum())
    if len(labels) < MIN_IMAGES or mistakes < MIN_MISTAKES or not _helps(logits, labels):
        return 1.0
    return _optimum(logits, labels)


def _helps(logits: Tensor, labels: Tensor) -> bool:
    """Whether fitted temperatures increase the likelihood of images that they were not fitted to."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    gains = []
    for fold in range(FOLDS):
        held, fitted = order[fold::FOLDS], torch.cat([order[other::FOLDS] for other in range(FOLDS) if other != fold])
        temperature = _optimum(logits[fitted], labels[fitted])
        losses = [
            functional.cross_entropy(logits[held] / by, labels[held], reduction="none") for by in (1.0, temperature)
        ]
        gains.append(losses[0] - losses[1])
    gain = torch.cat(gains)
    return float(gain.mean()) > float(gain.std()) / math.sqrt(len(gain))


def _optimum(logits: Tensor, labels: Tensor) -> float:
    """The negative log-likelihood is convex in the inverse temperature, so its slope is bisected."""
    own = logits.gather(1, labels[:, None]).squeeze(1)  # (N,)

    def slope(inverse: float) -> float:
        """Derivative of the mean negative log-likelihood: mean logit under the prediction, minus the label's."""
        return float(((logits * inverse).softmax(1) * logits).sum(1).mean() - own.mean())

    low, high = math.log(1 / HIGHEST), math.log(1 / LOWEST)
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(math.exp(middle)) > 0 else (middle, high)
    return 1 / math.exp((low + high) / 2)
