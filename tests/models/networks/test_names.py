"""The names that are known without torch are those of the registry and of torchvision."""

import torchvision

from models.networks.names import NAMES, torchvision_names
from models.networks.registry import NETWORKS


def test_the_names_are_those_of_the_registry() -> None:
    assert tuple(NETWORKS) == NAMES


def test_torchvisions_names_are_those_that_it_lists() -> None:
    assert list(torchvision_names()) == torchvision.models.list_models(module=torchvision.models)
