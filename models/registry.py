"""The networks by name, and the one function that builds them."""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from models.lenet import LeNet, LeNet1998
from models.resnet import ResNet20, resnet18, resnet34
from models.simple_cnn import SimpleCNN


@dataclass(frozen=True)
class NetworkEntry:
    """How a network is built, and the image sizes (height = width) it was made for, the first being the default."""

    build: Callable[..., nn.Module]
    sizes: tuple[int, ...]
    about: str


NETWORKS: dict[str, NetworkEntry] = {
    "lenet": NetworkEntry(LeNet, (28, 32), "two 5x5 convolutions, max pooling, 120-84-K"),
    "lenet1998": NetworkEntry(LeNet1998, (28, 32), "the original shape: sigmoid and average pooling"),
    "simple_cnn": NetworkEntry(SimpleCNN, (28, 32), "plain convolutions, ReLU, max pooling, one hidden layer"),
    "resnet18": NetworkEntry(resnet18, (32, 224), "18 layers; 3x3 stem up to 64x64, 7x7 above"),
    "resnet34": NetworkEntry(resnet34, (32, 224), "34 layers; 3x3 stem up to 64x64, 7x7 above"),
    "resnet20": NetworkEntry(ResNet20, (32,), "20 layers for 32x32 images, 0.27 M parameters"),
}


def find_network(name: str) -> NetworkEntry:
    """The registry's entry.

    Raises:
        ValueError: no such name; the message lists the nearest ones.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    near = difflib.get_close_matches(name, NETWORKS, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(NETWORKS)}"
    raise ValueError(f"no network is called {name!r}; {hint}")


def network_size(name: str, natural: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) to feed a network with images that are `natural` large: theirs if it was made for that."""
    sizes = find_network(name).sizes
    return natural if natural[0] == natural[1] and natural[0] in sizes else (sizes[0], sizes[0])


def build_network(name: str, *, channels: int, height: int, width: int, classes: int, **options: Any) -> nn.Module:
    """Builds a network that maps normalised images (N, channels, height, width) to logits (N, classes).

    Weights are initialised from torch's global generator; fork and seed it around this call for repeatable ones.

    Raises:
        ValueError: unknown name, unknown option, or a value that the network cannot take.
    """
    entry = find_network(name)
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}; images are grey (1) or RGB (3)")
    if classes < 2:
        raise ValueError(f"classes is {classes}; a classifier needs at least 2")
    known = set(inspect.signature(entry.build).parameters) - {"channels", "height", "width", "classes"}
    if unknown := sorted(set(options) - known):
        raise ValueError(f"{name} has no option {unknown[0]!r}; it has {', '.join(sorted(known)) or 'none'}")
    network: nn.Module = entry.build(channels=channels, height=height, width=width, classes=classes, **options)
    return network
