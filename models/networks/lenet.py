"""LeNet-5 and its relatives, for 28x28 and 32x32 images."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.errors import UserError

SIZES = (28, 32)


def _first_padding(height: int, width: int) -> int:
    """2 for 28x28 and 0 for 32x32: both leave 28x28 after the first 5x5 convolution."""
    if height != width or height not in SIZES:
        raise UserError(f"LeNet takes 28x28 or 32x32 images, got {height}x{width}")
    return 2 if height == 28 else 0


class LeNet(nn.Module):
    """LeNet-5 as taught today: two 5x5 convolutions (6 and 16 channels), ReLU, max pooling, 120-84-K.

    `hidden` are the widths of the fully connected layers before the last; `(84,)` is the short form 84-K.
    After LeCun et al., Gradient-Based Learning Applied to Document Recognition (1998), fig. 2.
    """

    def __init__(
        self, *, channels: int, height: int, width: int, classes: int, hidden: tuple[int, ...] = (120, 84)
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=_first_padding(height, width))
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2)
        widths = (16 * 5 * 5, *hidden, classes)
        self.fc = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised images to (N, K) logits."""
        x = self.pool(torch.relu(self.conv1(x)))  # (N, 6, 14, 14)
        x = self.pool(torch.relu(self.conv2(x)))  # (N, 16, 5, 5)
        x = torch.flatten(x, 1)  # (N, 400)
        for layer in self.fc[:-1]:
            x = torch.relu(layer(x))
        return self.fc[-1](x)  # type: ignore[no-any-return]  # ModuleList is untyped


class LeNet1998(nn.Module):
    """The original architecture: sigmoid activations and average pooling, 120-84-K.

    Follows the paper except for three details that are usually omitted: its pooling has trainable gains, its second
    convolution is sparsely connected, and its outputs are distances to drawn digits.
    """

    def __init__(self, *, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(channels, 6, 5, padding=_first_padding(height, width))
        self.s2 = nn.AvgPool2d(2)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.s4 = nn.AvgPool2d(2)
        self.c5 = nn.Linear(16 * 5 * 5, 120)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, classes)
        # Sigmoids saturate or die with the default initialisation (Glorot and Bengio 2010).
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised images to (N, K) logits."""
        x = self.s2(torch.sigmoid(self.c1(x)))  # (N, 6, 14, 14)
        x = self.s4(torch.sigmoid(self.c3(x)))  # (N, 16, 5, 5)
        x = torch.flatten(x, 1)  # (N, 400)
        x = torch.sigmoid(self.c5(x))
        x = torch.sigmoid(self.f6(x))
        return self.output(x)  # type: ignore[no-any-return]  # calling a Module is untyped
