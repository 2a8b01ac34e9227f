"""Four tiny networks for the 8x8 stripes, which show that convolutions without ReLU are one linear map."""

import torch
from torch import Tensor, nn

from models.errors import UserError

CHANNELS = 8


class StripesNet(nn.Module):
    """`depth` 3x3 convolutions of 8 channels, global average pooling, and the logits.

    Without `relu` the average of a convolution is a weighted sum of the pixels' averages, whatever the depth: both
    directions of a stripe of random phase give the same on average, and no weights separate them. With `relu` the
    average of the positive part is the energy of an edge detector, which separates them.
    """

    def __init__(self, depth: int, relu: bool, *, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        least = 2 * depth + 1
        if min(height, width) < least:
            raise UserError(f"{depth} 3x3 convolutions need images of at least {least}x{least}, got {height}x{width}")
        widths = (channels, *[CHANNELS] * depth)
        self.convs = nn.ModuleList(nn.Conv2d(a, CHANNELS, 3) for a in widths[:-1])
        self.relu = relu
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(CHANNELS, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised images to (N, K) logits."""
        for conv in self.convs:
            x = conv(x)  # (N, 8, H - 2, W - 2), and 2 less for each further layer
            x = torch.relu(x) if self.relu else x
        x = torch.flatten(self.avgpool(x), 1)  # (N, 8)
        return self.fc(x)  # type: ignore[no-any-return]  # calling a Module is untyped


def stripes_conv1(*, channels: int, height: int, width: int, classes: int) -> nn.Module:
    """One convolution, no ReLU: cannot separate the stripes."""
    return StripesNet(1, False, channels=channels, height=height, width=width, classes=classes)


def stripes_conv1_relu(*, channels: int, height: int, width: int, classes: int) -> nn.Module:
    """One convolution and ReLU: separates the stripes."""
    return StripesNet(1, True, channels=channels, height=height, width=width, classes=classes)


def stripes_conv2(*, channels: int, height: int, width: int, classes: int) -> nn.Module:
    """Two convolutions, no ReLU: no better than one."""
    return StripesNet(2, False, channels=channels, height=height, width=width, classes=classes)


def stripes_conv2_relu(*, channels: int, height: int, width: int, classes: int) -> nn.Module:
    """Two convolutions with ReLU."""
    return StripesNet(2, True, channels=channels, height=height, width=width, classes=classes)
