"""Residual networks: torchvision's ResNet-18, -34 and -50 with two stems, and the 32x32 ResNet-20 of He et al."""

from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from models.errors import UserError
from models.networks.blocks import ResidualBlock, SqueezeExcitation, init_convolutions

Stem = Literal["auto", "imagenet", "small"]


def _imagenet_resnet(
    block: type[BasicBlock | Bottleneck],
    blocks: list[int],
    *,
    channels: int,
    height: int,
    width: int,
    classes: int,
    stem: Stem,
) -> nn.Module:
    if stem not in ("auto", "imagenet", "small"):
        raise UserError(f"stem is {stem!r}; known are 'auto', 'imagenet' (7x7, stride 2, pooled) and 'small' (3x3)")
    if stem == "auto":  # after the 7x7 stem a 64x64 image ends as 2x2 maps
        stem = "small" if min(height, width) <= 64 else "imagenet"
    least = 8 if stem == "small" else 32
    if min(height, width) < least:
        raise UserError(f"ResNet with the {stem} stem needs images of at least {least}x{least}, got {height}x{width}")
    network: nn.Module = ResNet(block, blocks, num_classes=classes)
    if stem == "small":
        network.maxpool = nn.Identity()
        conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    else:
        conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
    network.conv1 = conv1
    return network


def resnet18(*, channels: int, height: int, width: int, classes: int, stem: Stem = "auto") -> nn.Module:
    """ResNet-18 (He et al. 2015, table 1) with torchvision's layer names; `auto` takes the 3x3 stem up to 64x64."""
    size = {"channels": channels, "height": height, "width": width, "classes": classes}
    return _imagenet_resnet(BasicBlock, [2, 2, 2, 2], **size, stem=stem)


def resnet34(*, channels: int, height: int, width: int, classes: int, stem: Stem = "auto") -> nn.Module:
    """ResNet-34 (He et al. 2015, table 1) with torchvision's layer names; `auto` takes the 3x3 stem up to 64x64."""
    size = {"channels": channels, "height": height, "width": width, "classes": classes}
    return _imagenet_resnet(BasicBlock, [3, 4, 6, 3], **size, stem=stem)


def resnet50(*, channels: int, height: int, width: int, classes: int, stem: Stem = "auto") -> nn.Module:
    """ResNet-50 (He et al. 2015, table 1; stride in the 3x3 convolution, as in torchvision); stems as above."""
    size = {"channels": channels, "height": height, "width": width, "classes": classes}
    return _imagenet_resnet(Bottleneck, [3, 4, 6, 3], **size, stem=stem)


class ResNet20(nn.Module):
    """The CIFAR-10 network of He et al. 2015, section 4.2, n = 3: 6n + 2 = 20 layers, 0.27 million parameters."""

    def __init__(self, *, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        if min(height, width) < 8:
            raise UserError(f"resnet20 needs images of at least 8x8, got {height}x{width}")
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, 1)
        self.layer2 = self._stage(16, 32, 2)
        self.layer3 = self._stage(32, 64, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, classes)
        init_convolutions(self)

    def _stage(self, channels: int, out: int, stride: int) -> nn.Sequential:
        blocks = [(channels, stride), (out, 1), (out, 1)]
        return nn.Sequential(*(ResidualBlock(a, out, step, attention=self.attention(out)) for a, step in blocks))

    def attention(self, channels: int) -> nn.Module | None:
        """The module before each block's sum; None without one."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised images to (N, K) logits."""
        x = torch.relu(self.bn1(self.conv1(x)))  # (N, 16, H, W)
        x = self.layer3(self.layer2(self.layer1(x)))  # (N, 64, H/4, W/4)
        x = torch.flatten(self.avgpool(x), 1)  # (N, 64)
        return self.fc(x)  # type: ignore[no-any-return]  # calling a Module is untyped


class SEResNet20(ResNet20):
    """The ResNet-20 of He et al. with the blocks of Hu et al., Squeeze-and-Excitation Networks (2018), fig. 3.

    `reduction` is the paper's r (section 6.1). The paper recommends 16 for networks of 256 channels and more; with the
    16 to 64 channels here that would leave one unit, so the default is 4.
    """

    def __init__(self, *, channels: int, height: int, width: int, classes: int, reduction: int = 4) -> None:
        if not 1 <= reduction <= 16:
            raise UserError(f"reduction is {reduction}; it must be between 1 and 16, the fewest channels here")
        self._reduction = reduction  # before the blocks, which use it
        super().__init__(channels=channels, height=height, width=width, classes=classes)

    def attention(self, channels: int) -> nn.Module:
        """The block's squeeze and excitation."""
        return SqueezeExcitation(channels, reduction=self._reduction)
