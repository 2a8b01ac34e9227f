"""VGG-11, -13 and -16 with torchvision's layer names: a small head for small images, the classic one for large."""

from collections.abc import Iterator
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from models.errors import UserError
from models.networks.blocks import init_convolutions

Head = Literal["auto", "small", "classic"]
_WIDTHS = (64, 128, 256, 512, 512)


def _features(channels: int, depths: tuple[int, ...], batch_norm: bool) -> Iterator[nn.Module]:
    for depth, width in zip(depths, _WIDTHS, strict=True):
        for _ in range(depth):
            yield nn.Conv2d(channels, width, 3, padding=1)
            if batch_norm:
                yield nn.BatchNorm2d(width)
            yield nn.ReLU()
            channels = width
        yield nn.MaxPool2d(2)


class VGG(nn.Module):
    """Five stages of `depths` 3x3 convolutions, each followed by 2x2 pooling: Simonyan and Zisserman (2014), table 1.

    With `batch_norm` torchvision's `vgg16_bn` weights fit, without it those of `vgg16`. The classic head is
    25088-4096-4096-K after pooling to 7x7; the small one, which `auto` takes up to 64x64, is 512-K.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        *,
        channels: int,
        height: int,
        width: int,
        classes: int,
        batch_norm: bool = True,
        head: Head = "auto",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if min(height, width) < 32:
            raise UserError(f"VGG needs images of at least 32x32, got {height}x{width}: it halves them five times")
        if head not in ("auto", "small", "classic"):
            raise UserError(f"head is {head!r}; known are 'auto', 'small' (512-K) and 'classic' (4096-4096-K)")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout is {dropout}; it must be in [0, 1)")
        small = min(height, width) <= 64 if head == "auto" else head == "small"
        self.features = nn.Sequential(*_features(channels, depths, batch_norm))
        self.avgpool = nn.AdaptiveAvgPool2d(1 if small else 7)
        self.classifier = nn.Sequential(
            *(nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout(dropout)) * (not small),
            *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(dropout)) * (not small),
            nn.Linear(512 if small else 4096, classes),
        )
        init_convolutions(self)
        for module in self.classifier:
            if isinstance(module, nn.Linear):  # as torchvision does
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised images to (N, K) logits."""
        x = self.avgpool(self.features(x))  # (N, 512, 7, 7), or 1x1 with the small head
        return self.classifier(torch.flatten(x, 1))  # type: ignore[no-any-return]  # calling a Module is untyped


# Columns A, B and D of the paper's table 1: 8, 10 and 13 convolutions.
vgg11 = partial(VGG, (1, 1, 2, 2, 2))
vgg13 = partial(VGG, (2, 2, 2, 2, 2))
vgg16 = partial(VGG, (2, 2, 3, 3, 3))
