"""A small network of depthwise-separable convolutions for 28x28 and 32x32 images."""

import torch
from torch import Tensor, nn

from models.errors import UserError
from models.networks.blocks import ConvBNReLU, DepthwiseSeparable, init_convolutions


class MobileNetSmall(nn.Module):
    """MobileNet (Howard et al. 2017, table 1) reduced for small images: no stride in the stem, two strides later.

    `multiplier` scales the channel counts (the paper's width multiplier, section 3.3).
    """

    def __init__(self, *, channels: int, height: int, width: int, classes: int, multiplier: float = 1.0) -> None:
        super().__init__()
        if min(height, width) < 8:
            raise UserError(f"mobilenet_small needs images of at least 8x8, got {height}x{width}")
        if not 0.1 <= multiplier <= 4:
            raise UserError(f"multiplier is {multiplier}; it must be between 0.1 and 4")
        a, b, c, d = (max(4, round(count * multiplier)) for count in (32, 64, 128, 256))
        self.stem = ConvBNReLU(channels, a)
        self.blocks = nn.Sequential(
            DepthwiseSeparable(a, b),
            DepthwiseSeparable(b, c, stride=2),
            DepthwiseSeparable(c, c),
            DepthwiseSeparable(c, d, stride=2),
            DepthwiseSeparable(d, d),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(d, classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised images to (N, K) logits."""
        x = self.blocks(self.stem(x))  # (N, 256, H/4, W/4)
        x = torch.flatten(self.avgpool(x), 1)  # (N, 256)
        return self.fc(x)  # type: ignore[no-any-return]  # calling a Module is untyped
