"""Putting tensors into a network."""

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn


def put_tensors(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """What `load_state_dict` does, for tensors that come without the versions a `state_dict` carries along.

    safetensors files and copies have none, and torchvision's MNASNet refuses to load without.

    Raises:
        RuntimeError: names or shapes differ.
    """
    versioned = OrderedDict(tensors)
    versioned._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]  # where torch keeps them
    network.load_state_dict(versioned)
