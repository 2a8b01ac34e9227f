"""The networks by name, and the function that builds them."""

from typing import Any

from torch import nn

from models.errors import UserError
from models.networks.compact_cnn import CompactCNN
from models.networks.custom import custom_spec
from models.networks.lenet import LeNet, LeNet1998
from models.networks.mlp import MLP
from models.networks.mobilenet_small import MobileNetSmall
from models.networks.names import TORCHVISION_PREFIX, check_network_name, torchvision_names
from models.networks.resnet import ResNet20, SEResNet20, resnet18, resnet34, resnet50
from models.networks.simple_cnn import SimpleCNN
from models.networks.skip_cnn import SkipCNN
from models.networks.spec import NetworkSpec
from models.networks.stripes import stripes_conv1, stripes_conv1_relu, stripes_conv2, stripes_conv2_relu
from models.networks.torchvision import torchvision_spec
from models.networks.two_head_cnn import TwoHeadCNN
from models.networks.vgg import vgg11, vgg13, vgg16

NETWORKS: dict[str, NetworkSpec] = {
    "lenet": NetworkSpec(LeNet, (28, 32), "two 5x5 convolutions, max pooling, 120-84-K"),
    "lenet1998": NetworkSpec(LeNet1998, (28, 32), "the original shape: sigmoid and average pooling"),
    "simple_cnn": NetworkSpec(SimpleCNN, (28, 32), "plain convolutions, ReLU, max pooling, one hidden layer"),
    "mlp": NetworkSpec(MLP, (28, 32), "no convolution: the flattened image, 128, K"),
    "compact_cnn": NetworkSpec(CompactCNN, (28, 32), "two 3x3 convolutions of 8 and 16 channels, batch norm, 128-K"),
    "resnet18": NetworkSpec(resnet18, (32, 224), "18 layers; 3x3 stem up to 64x64, 7x7 above"),
    "resnet34": NetworkSpec(resnet34, (32, 224), "34 layers; 3x3 stem up to 64x64, 7x7 above"),
    "resnet50": NetworkSpec(resnet50, (32, 224), "50 layers in bottlenecks; 3x3 stem up to 64x64, 7x7 above"),
    "resnet20": NetworkSpec(ResNet20, (32,), "20 layers for 32x32 images, 0.27 M parameters"),
    "se_resnet20": NetworkSpec(SEResNet20, (32,), "resnet20 with squeeze and excitation"),
    "vgg11": NetworkSpec(vgg11, (32, 224), "8 convolutions with batch norm; 512-K up to 64x64, 4096-4096-K above"),
    "vgg13": NetworkSpec(vgg13, (32, 224), "10 convolutions with batch norm; heads as vgg11"),
    "vgg16": NetworkSpec(vgg16, (32, 224), "13 convolutions with batch norm; heads as vgg11"),
    "mobilenet_small": NetworkSpec(MobileNetSmall, (32, 28), "depthwise-separable convolutions for small images"),
    "skip_cnn": NetworkSpec(SkipCNN, (32, 28), "skip connections that are concatenated and fused by 1x1"),
    "two_head_cnn": NetworkSpec(TwoHeadCNN, (28, 32), "a plain head up to 10 classes, a hidden layer above"),
    "stripes_conv1": NetworkSpec(stripes_conv1, (8,), "one convolution, no ReLU: cannot solve the stripes"),
    "stripes_conv1_relu": NetworkSpec(stripes_conv1_relu, (8,), "one convolution and ReLU: can"),
    "stripes_conv2": NetworkSpec(stripes_conv2, (8,), "two convolutions, no ReLU: no better than one"),
    "stripes_conv2_relu": NetworkSpec(stripes_conv2_relu, (8,), "two convolutions with ReLU"),
}


def find_network(name: str) -> NetworkSpec:
    """The specification of a registered network, a torchvision one (`torchvision:resnet50`, or `mobilenet_v2` if none
    of ours has the name), or a custom one (`module:callable`, which is imported).

    Raises:
        ValueError: no such name; the message lists the nearest ones.
    """
    check_network_name(name)
    if name in NETWORKS:
        return NETWORKS[name]
    plain = name.removeprefix(TORCHVISION_PREFIX)
    return torchvision_spec(plain) if plain in torchvision_names() else custom_spec(name)


def is_custom(name: str) -> bool:
    """True for the name of a network that neither this package nor torchvision has: `module:callable`."""
    return name not in NETWORKS and ":" in name and not name.startswith(TORCHVISION_PREFIX)


def input_size_for(name: str, natural: tuple[int, int]) -> tuple[int, int]:
    """The network's input (height, width) for images of size `natural`: their own if the network supports it."""
    spec = find_network(name)
    fits = natural[0] == natural[1] and (natural[0] in spec.sizes or (spec.any_size and natural[0] > 0))
    return natural if fits else (spec.sizes[0], spec.sizes[0])


def build_network(name: str, *, channels: int, height: int, width: int, classes: int, **options: Any) -> nn.Module:
    """Builds a network that maps normalised images (N, channels, height, width) to logits (N, classes).

    Weights are initialised from torch's global generator; fork and seed it around this call for repeatable ones.

    Args:
        name: as in `find_network`.
        options: the network's own keyword arguments.

    Raises:
        ValueError: unknown name, unknown option, or a value that the network cannot take.
    """
    spec = find_network(name)
    if channels not in (1, 3):
        raise UserError(f"channels is {channels}; images are grey (1) or RGB (3)")
    if classes < 2:
        raise UserError(f"classes is {classes}; a classifier needs at least 2")
    if min(height, width) < 1:
        raise UserError(f"images are {height}x{width}; both must be at least 1")
    if unknown := sorted(set(options) - set(spec.options)):
        raise UserError(f"{name} has no option {unknown[0]!r}; it has {', '.join(sorted(spec.options)) or 'none'}")
    return spec.build(channels=channels, height=height, width=width, classes=classes, **options)
