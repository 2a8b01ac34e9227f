"""Small networks of kinds that the registry has only in large, to be exported as `module:callable`."""

from torch import Tensor, nn
from torchvision.models import SwinTransformer, VisionTransformer
from torchvision.models.resnet import BasicBlock

NETWORKS = f"{__name__}:"


class AllConvolutional(nn.Module):
    """The last layer is a convolution with one channel a class; one ReLU object is used twice, in place."""

    def __init__(self, *, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv3 = nn.Conv2d(8, classes, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x))
        return self.conv3(x).mean((2, 3))


class SmallResNet(nn.Module):
    """torchvision's blocks, whose ReLU objects are called twice and work in place; 8 x 8 pixels end as 1 x 1."""

    def __init__(self, *, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1)
        self.layer1 = BasicBlock(8, 16, 2, self._shortcut(8, 16))
        self.layer2 = BasicBlock(16, 16, 2, self._shortcut(16, 16))
        self.layer3 = BasicBlock(16, 24, 2, self._shortcut(16, 24))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(24, classes)

    @staticmethod
    def _shortcut(channels: int, out: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, out, 1, 2), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def small_vit(*, channels: int, height: int, width: int, classes: int) -> nn.Module:
    """Two layers; 16 patches and a class token."""
    return VisionTransformer(
        image_size=height, patch_size=height // 4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=classes,
    )  # fmt: skip


def small_swin(*, channels: int, height: int, width: int, classes: int) -> nn.Module:
    """Two stages, of 8 x 8 and 4 x 4 places for 32 x 32 pixels."""
    return SwinTransformer(
        [4, 4], embed_dim=12, depths=[1, 1], num_heads=[2, 2], window_size=[4, 4], num_classes=classes
    )


class DigitFinder(nn.Module):
    """Learns to read a digit anywhere in 64 x 64 pixels within a minute; ends as 16 x 16 maps that are averaged."""

    def __init__(self, *, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *self._layer(channels, 8, 2), *self._layer(8, 16, 2), *self._layer(16, 32, 1), *self._layer(32, 32, 1)
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(32, classes)

    @staticmethod
    def _layer(channels: int, out: int, stride: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.avgpool(self.layers(x)).flatten(1))
