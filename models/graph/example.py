"""Blank images that fit a network's device and precision."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def blank_images(network: nn.Module, count: int, shape: Sequence[int]) -> Tensor:
    """Zeros (count, C, H, W) on the device and of the type of the network's first floating-point parameter.

    Args:
        shape: of one image, (channels, height, width).
    """
    like = next((parameter for parameter in network.parameters() if parameter.is_floating_point()), torch.empty(0))
    return torch.zeros(count, *shape, dtype=like.dtype, device=like.device)
