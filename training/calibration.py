"""Temperature scaling: Guo et al., On Calibration of Modern Neural Networks (2017), section 4.2."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

LOWEST, HIGHEST = 0.05, 20.0
LEAST_IMAGES = 50  # among fewer, one mistake decides
HALVINGS = 40


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that logits are divided by to give `labels` the greatest likelihood.

    The negative log-likelihood is convex in the inverse of the temperature, so its slope is bisected. Where every label
    has the greatest logit there is no optimum, as the likelihood grows for ever towards temperature 0: then it is 1.

    Args:
        logits: (N, K), of images the network has not learnt from.
        labels: int64 (N,).

    Returns:
        A temperature in [0.05, 20].

    Raises:
        ValueError: there are no images, or logits that are not finite.
    """
    if not len(labels):
        raise ValueError("there are no images to fit a temperature on")
    logits, labels = logits.detach().cpu().double(), labels.cpu()
    if not bool(logits.isfinite().all()):
        raise ValueError("a temperature was asked of logits that are not finite")
    own = logits.gather(1, labels[:, None]).squeeze(1)  # (N,)
    if bool((own >= logits.amax(1)).all()):
        return 1.0
    return 1 / _best_inverse(logits, own)


def calibrated_loss(logits: Tensor, labels: Tensor, *, total: Callable[[Tensor], Tensor] = lambda sums: sums) -> float:
    """The mean negative log-likelihood at the temperature that makes it least: what no temperature can mend.

    Epochs are compared by it, after Berta et al., Rethinking Early Stopping: Refine, Then Calibrate (2025). The plain
    one grows as a network becomes too sure of itself, which is mended later, while its answers still get better.

    Args:
        logits: (N, K), of images the network has not learnt from.
        labels: int64 (N,).
        total: sums over all processes, of which this one has these images.

    Returns:
        Nats; NaN if a logit is not finite.
    """
    logits = logits.detach().double()
    inverse = _best_inverse(logits, logits.gather(1, labels[:, None]).squeeze(1), total)
    loss = functional.cross_entropy(logits * inverse, labels, reduction="sum")
    sums = total(torch.stack((loss, loss.new_tensor(len(labels)))))
    return float(sums[0] / sums[1])


def _best_inverse(logits: Tensor, own: Tensor, total: Callable[[Tensor], Tensor] = lambda sums: sums) -> float:
    """The inverse temperature of greatest likelihood for logits (N, K), of which `own` (N,) are those of the labels."""
    low, high = math.log(1 / HIGHEST), math.log(1 / LOWEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        # The slope of the negative log-likelihood: the mean logit under the prediction, less the label's.
        predicted = ((logits * math.exp(middle)).softmax(1) * logits).sum(1)
        low, high = (low, middle) if float(total((predicted - own).sum())) > 0 else (middle, high)
    return math.exp((low + high) / 2)
