"""Mixing of images within a batch: mixup (Zhang et al., 2018) and cutmix (Yun et al., 2019).

Not torchvision's v2 transforms: they use the global generator, so a resumed run would not be reproducible.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class MixedLabels:
    """Labels (N,) of the mixed-in images, and their weight in the loss, in [0, 1]."""

    labels: Tensor
    weight: float


def mix(
    images: Tensor, labels: Tensor, *, mixup: float, cutmix: float, generator: torch.Generator
) -> tuple[Tensor, MixedLabels]:
    """Blends every image with another one of the batch, or pastes a rectangle from it.

    Args:
        images: uint8 (N, H, W, C).
        labels: int64 (N,).
        mixup: alpha of the beta distribution of the weights, 0 for none.
        cutmix: alpha of the beta distribution of the areas that stay, 0 for none; with both, either at random (50 %).
        generator: on the CPU, so that no draw waits for an accelerator.

    Returns:
        Images (N, H, W, C), float32 in [0, 255] if blended and otherwise uint8, and their mixing partners.
    """
    coin, seed = torch.rand(1, generator=generator).item(), torch.randint(2**62, (1,), generator=generator).item()
    partner = torch.randperm(len(images), generator=generator).to(images.device)
    draw = np.random.default_rng(int(seed))
    blend = mixup > 0 and (cutmix == 0 or coin < 0.5)
    weight = float(draw.beta(mixup, mixup) if blend else draw.beta(cutmix, cutmix))
    if blend:
        x = images.float()
        images = x.lerp(x[partner], 1 - weight)
    else:
        top, bottom, left, right = _rectangle(images.shape[1], images.shape[2], 1 - weight, draw)
        weight = 1 - (bottom - top) * (right - left) / (images.shape[1] * images.shape[2])
        images = images.clone()
        images[:, top:bottom, left:right] = images[partner, top:bottom, left:right]
    return images, MixedLabels(labels[partner.to(labels.device)], 1 - weight)


def _rectangle(height: int, width: int, area: float, draw: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of a box with the image's aspect and the share `area`, clipped; paper, eq. 2."""
    tall, wide = (round(side * math.sqrt(area)) for side in (height, width))
    top, left = int(draw.integers(height)) - tall // 2, int(draw.integers(width)) - wide // 2
    return max(0, top), min(height, top + tall), max(0, left), min(width, left + wide)
