"""Rows of the node table as JSON, those of older manifests included."""

import json
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.graph.node import Node, nodes_from_json
from models.graph.node_table import node_table
from models.networks.registry import NETWORKS, build_network
from tests.conftest import make_spec
from tests.registered import HEAVY, in_acceptance

NODE = Node(name="conv", op="Conv2d", parents=("input",), shape=(1, 20, 20), kernel=(3, 3), padding=(1, 0))


def without_starts(nodes: tuple[Node, ...]) -> list[dict[str, object]]:
    """The table as manifests had it before rows had a start."""
    rows = json.loads(json.dumps([asdict(node) for node in nodes]))
    for row in rows:
        del row["start"]
    return rows


def test_a_row_survives_json() -> None:
    content = json.loads(json.dumps(asdict(NODE)))
    assert Node.from_json(content) == NODE
    with pytest.raises(ValueError, match="unexpected keyword argument 'colour'; known keys are name, op"):
        Node.from_json({**content, "colour": 1})


@pytest.mark.parametrize("name", in_acceptance(HEAVY, [*NETWORKS, "inception_v3"]))
def test_older_tables_get_the_starts_that_follow_from_them(name: str) -> None:
    size = NETWORKS[name].sizes[-1] if name in NETWORKS else 299
    with torch.device("meta"):
        network = build_network(name, channels=3, height=size, width=size, classes=10)
        nodes = node_table(network, make_spec(size, 3))
    assert nodes_from_json(without_starts(nodes)) == nodes
    assert nodes_from_json([asdict(node) for node in nodes]) == nodes


@pytest.mark.parametrize("pad", [(1, 1, 1, 1), (0, 1, 0, 1)])
def test_a_start_behind_a_pad_stays_unknown(pad: tuple[int, ...]) -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(functional.pad(self.first(x), pad))

    rows = nodes_from_json(without_starts(node_table(Padded(), make_spec(20, 1))))
    assert [row.start for row in rows] == [(-1, -1), None, None]
    assert [row.receptive_field for row in rows] == [(3, 3), (3, 3), (5, 5)]


def test_a_start_behind_a_window_without_a_row_stays_unknown() -> None:
    pooled = Node(name="pool", op="DequantizeLinear", parents=("conv",), shape=(1, 9, 9))
    fields = {"conv": ((3, 3), (1, 1)), "pool": ((4, 4), (2, 2))}
    rows = [
        {**row, "receptive_field": fields[str(row["name"])][0], "jump": fields[str(row["name"])][1]}
        for row in without_starts((NODE, pooled))
    ]
    rows[0] |= {"stride": (1, 1), "dilation": (1, 1)}
    assert [row.start for row in nodes_from_json(rows)] == [(-1, 0), None]
