"""The registered networks as parameters of tests; `make acceptance` adds those that are only deeper."""

from collections.abc import Container, Iterable
from typing import Any

import pytest

from models.networks.registry import NETWORKS

HEAVY = ("resnet34", "resnet50", "vgg13", "vgg16")  # more of the same as resnet18 and vgg11
LIGHT = [name for name in NETWORKS if name not in HEAVY]
SIZES = [(name, size) for name, entry in NETWORKS.items() for size in entry.sizes]


def in_acceptance(names: Container[str], cases: Iterable[Any]) -> list[Any]:
    """The cases, each a name or a tuple that begins with one; `make acceptance` alone runs those of these names."""
    marked = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        marked.append(pytest.param(*values, marks=[pytest.mark.acceptance] if values[0] in names else []))
    return marked
