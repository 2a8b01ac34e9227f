"""A trunk with a choice of two heads: a plain one for few classes, one with a hidden layer for many."""

from typing import Literal

import torch
from torch import Tensor, nn

from models.errors import UserError
from models.networks.blocks import ConvBNReLU, init_convolutions

Head = Literal["auto", "plain", "hidden"]
FEW = 10


class TwoHeadCNN(nn.Module):
    """Two stages of convolution, batch norm, ReLU and pooling, then the head for the class count.

    `auto` takes the plain head (features-K) for up to 10 classes, and the one with a hidden layer and dropout
    (features-256-K) for more: a single layer cannot share features between many similar classes.
    """

    def __init__(self, *, channels: int, height: int, width: int, classes: int, head: Head = "auto") -> None:
        super().__init__()
        if min(height, width) < 4:
            raise UserError(f"two_head_cnn needs images of at least 4x4, got {height}x{width}")
        if head not in ("auto", "plain", "hidden"):
            raise UserError(f"head is {head!r}; known are 'auto', 'plain' (up to {FEW} classes) and 'hidden'")
        self.trunk = nn.Sequential(
            ConvBNReLU(channels, 16), nn.MaxPool2d(2), ConvBNReLU(16, 32), nn.MaxPool2d(2)
        )  # (N, 32, H/4, W/4)
        init_convolutions(self.trunk)
        features = 32 * (height // 4) * (width // 4)
        plain = classes <= FEW if head == "auto" else head == "plain"
        self.head: nn.Module = nn.Linear(features, classes)
        if not plain:
            self.head = nn.Sequential(nn.Linear(features, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, classes))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised images to (N, K) logits."""
        x = torch.flatten(self.trunk(x), 1)  # (N, features)
        return self.head(x)  # type: ignore[no-any-return]  # calling a Module is untyped
