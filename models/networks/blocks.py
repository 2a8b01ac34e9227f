"""Building blocks that several networks share."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvBNReLU(nn.Sequential):
    """A convolution that keeps the size (up to its stride), batch norm and ReLU; `groups` as in `nn.Conv2d`."""

    def __init__(self, channels: int, out: int, kernel: int = 3, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
        )


class DepthwiseSeparable(nn.Sequential):
    """A depthwise 3x3 convolution, then a pointwise 1x1: Howard et al., MobileNets (2017), fig. 3."""

    def __init__(self, channels: int, out: int, *, stride: int = 1) -> None:
        super().__init__(
            ConvBNReLU(channels, channels, stride=stride, groups=channels),
            ConvBNReLU(channels, out, 1),
        )


class SqueezeExcitation(nn.Module):
    """Weights channels by their global averages: Hu et al., Squeeze-and-Excitation Networks (2018), eq. 2 to 4."""

    def __init__(self, channels: int, *, reduction: int) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        scale = torch.relu(self.fc1(self.avgpool(x)))  # (N, C / r, 1, 1)
        return x * torch.sigmoid(self.fc2(scale))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a parameter-free shortcut (He et al. 2015, section 3.3, option A).

    `attention` is applied between the second batch norm and the sum (Hu et al. 2018, fig. 3).
    """

    def __init__(self, channels: int, out: int, stride: int, *, attention: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.attention = attention
        self.stride = stride
        self.extra = out - channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, out, H / stride, W / stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.attention is not None:
            y = self.attention(y)
        if self.extra:  # every second pixel, and zeros for the new channels
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return torch.relu(y + x)


class SkipConcat(nn.Module):
    """Two 3x3 convolutions whose output is concatenated with their input, and fused by a 1x1 convolution."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = ConvBNReLU(channels, out)
        self.conv2 = ConvBNReLU(out, out)
        self.fuse = ConvBNReLU(channels + out, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, out, H, W)."""
        y = self.conv2(self.conv1(x))  # (N, out, H, W)
        return self.fuse(torch.cat([x, y], 1))  # type: ignore[no-any-return]  # calling a Module is untyped


def init_convolutions(network: nn.Module) -> None:
    """Initialises convolutions for ReLU networks: He et al., Delving Deep into Rectifiers (2015), eq. 14 (fan out)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            # torch computes the fan out of a grouped convolution as if it had one group
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out" if module.groups == 1 else "fan_in", nonlinearity="relu"
            )
            if module.bias is not None:
                nn.init.zeros_(module.bias)
