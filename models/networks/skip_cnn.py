"""A CNN whose skip connections are concatenated, not added, and fused by 1x1 convolutions."""

import torch
from torch import Tensor, nn

from models.errors import UserError
from models.networks.blocks import SkipConcat, init_convolutions


class SkipCNN(nn.Module):
    """Three stages of `SkipConcat` with 2x2 max pooling in between, global average pooling and the logits.

    Concatenation after Huang et al., Densely Connected Convolutional Networks (2017), eq. 2; the 1x1 fusion after
    Lin et al., Network in Network (2014).
    """

    def __init__(self, *, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        if min(height, width) < 8:
            raise UserError(f"skip_cnn needs images of at least 8x8, got {height}x{width}")
        self.stage1 = SkipConcat(channels, 16)
        self.stage2 = SkipConcat(16, 32)
        self.stage3 = SkipConcat(32, 64)
        self.pool = nn.MaxPool2d(2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised images to (N, K) logits."""
        x = self.pool(self.stage1(x))  # (N, 16, H/2, W/2)
        x = self.pool(self.stage2(x))  # (N, 32, H/4, W/4)
        x = torch.flatten(self.avgpool(self.stage3(x)), 1)  # (N, 64)
        return self.fc(x)  # type: ignore[no-any-return]  # calling a Module is untyped
