from itertools import combinations

import pytest
import torch
from torch import nn

from models.graph.layout import center, layout
from models.graph.node import Node
from models.graph.node_table import node_table
from models.networks.registry import build_network
from tests.conftest import make_spec


def chain(*edges: tuple[str, tuple[str, ...]]) -> list[Node]:
    return [Node(name=name, op="x", parents=parents, shape=(1,)) for name, parents in edges]


def drawn(nodes: list[Node]) -> dict[str, tuple[int, int]]:
    return {node.name: (place.row, place.lane) for node, place in zip(nodes, layout(nodes), strict=True)}


def test_a_sequence_is_one_lane():
    nodes = chain(("a", ("input",)), ("b", ("a",)), ("c", ("b",)))
    assert drawn(nodes) == {"a": (1, 0), "b": (2, 0), "c": (3, 0)}


def test_a_skip_leaves_the_trunk_straight_where_it_can():
    """The edge of a skip covers the trunk's lane, so the branch has a lane of its own until they meet."""
    nodes = chain(("a", ("input",)), ("b", ("a",)), ("c", ("b",)), ("add", ("c", "a")), ("end", ("add",)))
    places = drawn(nodes)
    assert [places[name][0] for name in ("a", "b", "c", "add", "end")] == [1, 2, 3, 4, 5]
    assert places["b"][1] == places["c"][1] == 1
    assert places["a"][1] == places["add"][1] == places["end"][1] == 0


@pytest.mark.parametrize(
    ("name", "size"), [("lenet", 28), ("resnet20", 32), ("googlenet", 64), ("densenet121", 64), ("skip_cnn", 32)]
)
def test_nothing_is_drawn_over_anything_else(name, size):
    channels = 1 if name == "lenet" else 3
    network = build_network(name, channels=channels, height=size, width=size, classes=10)
    nodes = node_table(network, make_spec(size, channels))
    places = dict(zip((node.name for node in nodes), layout(nodes), strict=True))
    positions = [(place.row, place.lane) for place in places.values()]
    assert len(set(positions)) == len(positions)
    for node in nodes:
        for parent in node.parents:
            if parent == "input":
                continue
            first, last = places[parent], places[node.name]
            assert first.row < last.row
            if first.lane == last.lane:
                assert not {(row, first.lane) for row in range(first.row + 1, last.row)} & set(positions)


def test_the_module_is_where_the_node_is_called():
    network = build_network("resnet20", channels=3, height=32, width=32, classes=10)
    nodes = node_table(network, make_spec(32, 3))
    modules = {node.name: place.module for node, place in zip(nodes, layout(nodes), strict=True)}
    known = {name for name, _ in network.named_modules()}
    assert set(modules.values()) <= known
    assert modules["conv1"] == ""


def test_the_centre_is_where_the_gradient_is():
    """Of a unit whose field is symmetric and inside the image: the mean position of non-zero input gradients."""
    network = nn.Sequential(nn.Conv2d(1, 2, 5, stride=2), nn.ReLU(), nn.Conv2d(2, 2, 3, dilation=2)).eval()
    (*_, last) = node_table(nn.Sequential(*network, nn.Flatten(), nn.LazyLinear(3)).eval(), make_spec(28, 1))[:3]
    x = torch.rand(1, 1, 28, 28, requires_grad=True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.abs() + 0.1)
    network(x)[0, 0, 0, 0].backward()
    rows, columns = torch.nonzero(x.grad[0, 0], as_tuple=True)
    assert center(last) == (float(rows.float().mean()), float(columns.float().mean()))


def test_nodes_without_a_field_have_no_centre():
    assert all(center(one) is None for one in combinations_of_unknown())


def combinations_of_unknown() -> list[Node]:
    known = {"receptive_field": (3, 3), "start": (0, 0)}
    return [
        Node(name="a", op="x", parents=(), shape=(1,), **{key: known[key] for key in keys})
        for count in (0, 1)
        for keys in combinations(known, count)
    ]
