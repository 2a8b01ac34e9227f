"""The node table has torchvision's names, the published receptive fields and counts, and agrees with gradients."""

import math
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.feature_extraction import get_graph_node_names

from models.graph.node import Node
from models.graph.node_table import node_table
from models.graph.receptive_field import Box, ReceptiveField
from models.networks.registry import NETWORKS, build_network
from tests.conftest import make_spec
from tests.models.graph.gradients import influence
from tests.registered import HEAVY, LIGHT, SIZES, in_acceptance


def table(network: nn.Module, size: int, channels: int = 3) -> dict[str, Node]:
    return {node.name: node for node in node_table(network, make_spec(size, channels))}


def named(name: str, size: int, channels: int = 3) -> nn.Module:
    return build_network(name, channels=channels, height=size, width=size, classes=10)


def fields(rows: dict[str, Node], names: str) -> list[int]:
    found = [rows[name].receptive_field for name in names.split()]
    assert all(field is not None and field[0] == field[1] for field in found)
    return [field[0] for field in found if field is not None]


@pytest.mark.parametrize(("name", "size"), in_acceptance(HEAVY, SIZES))
def test_names_and_their_order_are_torchvisions(name: str, size: int) -> None:
    with torch.device("meta"):
        network = named(name, size)
        rows = table(network, size)
    _, evaluation = get_graph_node_names(network)
    assert list(rows) == [node for node in evaluation if node != "x" and rows.get(node)]
    assert set(evaluation) - set(rows) <= {"x"}


@pytest.mark.parametrize("name", LIGHT)
def test_shapes_are_those_of_the_values(name: str) -> None:
    size = NETWORKS[name].sizes[0]
    network = named(name, size, 1).eval()
    extract = torchvision.models.feature_extraction.create_feature_extractor
    rows = table(network, size, 1)
    with torch.no_grad():
        values = extract(network, return_nodes=list(rows), suppress_diff_warning=True)(torch.zeros(2, 1, size, size))
    assert {name: node.shape for name, node in rows.items()} == {k: tuple(v.shape[1:]) for k, v in values.items()}


def five_convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 5, stride=3), *(nn.Conv2d(2, 2, 5) for _ in range(4)))


@pytest.mark.parametrize(
    ("build", "size", "names", "wanted"),
    [
        (lambda: named("lenet", 32, 1), 32, "conv1 pool conv2 pool_1", [5, 6, 14, 16]),
        (
            torchvision.models.resnet18,
            224,
            "conv1 maxpool layer1.1.relu_1 layer2.1.relu_1 layer3.1.relu_1 layer4.1.relu_1",
            [7, 11, 43, 99, 211, 435],
        ),
        (
            torchvision.models.vgg16,
            224,
            "features.4 features.9 features.16 features.23 features.30",
            [6, 16, 44, 100, 212],
        ),
        (
            lambda: named("resnet18", 32),
            32,
            "conv1 layer1.1.relu_1 layer2.1.relu_1 layer3.1.relu_1 layer4.1.relu_1",
            # 1 + 2; + 4 x 2; + (2 + 3 x 4); + (4 + 3 x 8); + (8 + 3 x 16)
            [3, 11, 25, 53, 109],
        ),
        (five_convolutions, 64, "0 1 2 3 4", [5, 17, 29, 41, 53]),
    ],
)  # fmt: skip
def test_receptive_fields_are_the_published_ones(
    build: Callable[[], nn.Module], size: int, names: str, wanted: list[int]
) -> None:
    with torch.device("meta"):
        network = build()
        channels = next(network.parameters()).shape[1]
        rows = table(network, size, channels)
    assert fields(rows, names) == wanted


@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
def test_parameters_and_multiplications_are_the_published_ones(name: str) -> None:
    meta = torchvision.models.get_model_weights(name).DEFAULT.meta
    with torch.device("meta"):
        rows = table(torchvision.models.get_model(name), 224).values()
    assert (
        sum(node.parameters for node in rows) == meta["num_params"] == {"resnet18": 11_689_512}.get(name, 138_357_544)
    )
    macs = sum(node.macs for node in rows)
    assert macs / 1e9 == pytest.approx(
        {"resnet18": 1.814, "vgg16": 15.47}[name], abs=5e-4 if name == "resnet18" else 5e-3
    )
    assert macs / 1e9 == pytest.approx(meta["_ops"], rel=1e-3)


def test_lenets_multiplications_are_those_done_by_hand() -> None:
    rows = table(named("lenet", 28, 1), 28, 1)
    assert rows["conv1"].macs == 28 * 28 * 6 * 25
    assert rows["conv2"].macs == 10 * 10 * 16 * 25 * 6
    assert [rows[f"fc.{i}"].macs for i in range(3)] == [400 * 120, 120 * 84, 84 * 10]
    assert rows["conv1"].kernel == (5, 5) and rows["conv1"].padding == (2, 2) and rows["pool"].stride == (2, 2)


class Shared(nn.Module):
    """One pool and one convolution, used twice each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(1, 1, 3), nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(self.pool(self.conv(x))))


class Skip(nn.Module):
    """A long and a short way beside each other, added or concatenated."""

    def __init__(self, concat: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, stride=2, padding=1)
        self.long = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 5, padding=2))
        self.short = nn.Conv2d(2, 2, 1)
        self.last = nn.Conv2d(4 if concat else 2, 1, 3, padding=1)
        self.concat = concat

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        a, b = self.long(x), self.short(x)
        return self.last(torch.cat([a, b], 1) if self.concat else a + b)


class Functional(nn.Module):
    """Layers as function calls, with their arguments by position and by name, not square, and dilated."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 1, (3, 5), stride=(2, 1), dilation=(2, 3), padding=(2, 6))
        self.b = nn.Conv2d(1, 1, 3, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(functional.relu(self.a(x)), 2)
        x = functional.max_pool2d(torch.relu(self.b(x)), kernel_size=3, stride=1, padding=1)
        return x[:, :, ::2, ::2]


def test_modules_used_twice_stand_in_two_rows_and_count_once() -> None:
    rows = table(Shared(), 22, 1)
    assert list(rows) == ["conv", "pool", "conv_1", "pool_1"]
    assert fields(rows, "conv pool conv_1 pool_1") == [3, 4, 8, 10]
    assert [node.parameters for node in rows.values()] == [10, 0, 0, 0]
    assert rows["conv_1"].parents == ("pool",)
    assert rows["conv_1"].macs == 8 * 8 * 9


@pytest.mark.parametrize(("concat", "name"), [(True, "cat"), (False, "add")])
def test_the_widest_branch_decides(concat: bool, name: str) -> None:
    rows = table(Skip(concat), 32, 1)
    assert fields(rows, f"stem long.0 long.2 short {name} last") == [3, 7, 15, 3, 15, 19]
    assert rows[name].parents == ("long.2", "short")
    assert rows["last"].jump == (2, 2)


class Smooth(Functional):
    """The same with averages for largest values: a maximum passes the gradient of one position only."""

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(functional.relu(self.a(x)), 2)
        x = functional.avg_pool2d(torch.relu(self.b(x)), kernel_size=3, stride=1, padding=1)
        return x[:, :, ::2, ::2]


def box_of(row: Node, y: int, x: int) -> Box:
    assert row.receptive_field and row.jump and row.start
    return ReceptiveField(row.receptive_field, row.jump, row.start).box(y, x)


@pytest.mark.parametrize(
    "build",
    [Shared, lambda: Skip(True), lambda: Skip(False), Smooth, five_convolutions],
    ids=["shared", "concat", "add", "functional", "plain"],
)
def test_gradients_reach_exactly_the_receptive_field(build: Callable[[], nn.Module]) -> None:
    network = build()
    *_, last = table(network, 81, 1).values()
    box, unit = influence(network, 81)
    assert box_of(last, *unit) == box


@pytest.mark.parametrize(("layer", "name"), [("layer1", "layer1.2.relu_1"), ("layer2", "layer2.2.relu_1")])
def test_gradients_reach_exactly_the_receptive_field_of_resnet20(layer: str, name: str) -> None:
    network = named("resnet20", 81, 1)
    stages = [network.layer1] if layer == "layer1" else [network.layer1, network.layer2]
    row = table(network, 81, 1)[name]
    features = nn.Sequential(network.conv1, *stages)
    box, unit = influence(features, 81)
    assert box_of(row, *unit) == box


def test_largest_and_average_pools_reach_equally_far() -> None:
    largest, average = table(Functional(), 81, 1), table(Smooth(), 81, 1)
    assert [n.receptive_field for n in largest.values()] == [n.receptive_field for n in average.values()]
    assert list(largest.values())[-1].jump == (8, 4)


@pytest.mark.parametrize("layer", [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.InstanceNorm2d(1), nn.LayerNorm([8, 8])])
def test_what_sees_the_whole_image_or_is_unknown_has_no_receptive_field(layer: nn.Module) -> None:
    rows = table(nn.Sequential(nn.Conv2d(1, 1, 1), layer), 8, 1)
    assert rows["0"].receptive_field == (1, 1)
    assert rows["1"].receptive_field is None and rows["1"].jump is None


def test_grouped_convolutions_multiply_less() -> None:
    rows = table(nn.Sequential(nn.Conv2d(1, 8, 1), nn.Conv2d(8, 8, 3, groups=8)), 10, 1)
    assert rows["1"].macs == 8 * 8 * 8 * 9
    assert rows["1"].parameters == 8 * 9 + 8
    assert math.prod(rows["1"].shape) == 8 * 8 * 8


def test_an_image_size_that_does_not_fit_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"the network does not take \(1, 1, 40, 40\) images"):
        node_table(named("lenet", 28, 1), make_spec(40, 1))
