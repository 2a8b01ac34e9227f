"""The figures in docs/networks.md are those of the node table."""

import re
from pathlib import Path

import pytest

from export.cli.subject import summarize
from models.networks.registry import NETWORKS

TEXT = (Path(__file__).parents[2] / "docs/networks.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| [^|]+ \| (\d+)x(\d+)x(\d) \| ([\d,]+) \| ([\d,]+) \|$", TEXT, re.MULTILINE)


def test_every_network_stands_there_at_every_size() -> None:
    assert [(name, int(size)) for name, size, *_ in ROWS] == [(n, s) for n, e in NETWORKS.items() for s in e.sizes]


@pytest.mark.parametrize(("name", "height", "width", "channels", "parameters", "macs"), ROWS)
def test_the_figures_are_the_summarys(
    name: str, height: str, width: str, channels: str, parameters: str, macs: str
) -> None:
    assert height == width
    found = summarize(name, size=int(height), channels=int(channels), classes=10)
    assert found.caption == f"{parameters} parameters, {macs} multiply-accumulates an image"


def test_every_option_is_named() -> None:
    for name, entry in NETWORKS.items():
        for option in entry.options:
            assert f"`{option}`" in TEXT, f"{name}: {option}"
