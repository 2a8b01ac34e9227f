"""Receptive fields through less usual layers: by gradients, and by hand."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.graph.node import Node
from models.graph.node_table import node_table
from models.graph.receptive_field import ReceptiveField
from models.networks.blocks import SkipConcat
from tests.conftest import make_spec
from tests.models.graph.gradients import influence


def table(network: nn.Module, size: int = 41) -> dict[str, Node]:
    return {node.name: node for node in node_table(network, make_spec(size, 1))}


class Weights(nn.Module):
    """A convolution as a function of the network's own parameter, tied to a second use of it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(1, 1, 3, 5))
        self.scale = nn.Parameter(torch.ones(1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.conv2d(x, self.weight, stride=(1, 2), padding=(0, 2), dilation=(2, 1))
        return functional.conv2d(x * self.scale, weight=self.weight)


class ChannelsLast(nn.Module):
    """A linear layer over channels, between two changes of layout, as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 1, 3, stride=2)
        self.norm, self.mix = nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).permute(0, 2, 3, 1)
        return self.last(torch.permute(self.mix(x), (0, 3, 1, 2)))


class Halves(nn.Module):
    """Two halves of the channels, one of which goes a longer way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.long = nn.Conv2d(1, 4, 3), nn.Conv2d(2, 2, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x).chunk(2, dim=1)
        return torch.cat((a, self.long(b)), dim=1)


class Parts(nn.Module):
    """A convolution of what is made of another's result."""

    def __init__(self, make: Callable[[Tensor], Tensor], channels: int = 1) -> None:
        super().__init__()
        self.make, self.first, self.last = make, nn.Conv2d(1, 1, 3), nn.Conv2d(channels, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.make(self.first(x)))  # type: ignore[no-any-return]


class Uneven(nn.Module):
    """Branches of one size and step whose windows begin apart: -3 to 1, -1 to 1 and 0 to 2 times the step."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 1, 2, padding=1)
        self.a = nn.Conv2d(1, 1, 5, stride=2, padding=3)
        self.b = nn.Conv2d(1, 1, 3, stride=2, padding=1)
        self.c = nn.AvgPool2d(3, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        a, b, c = self.a(y), self.b(y), self.c(y)
        return torch.cat((a[..., : c.shape[2], : c.shape[3]], b[..., : c.shape[2], : c.shape[3]], c), dim=1)


class Rows(nn.Module):
    """A linear layer along rows of pixels: no position keeps to its neighbourhood."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(41, 41)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "build",
    [
        Weights,
        ChannelsLast,
        Halves,
        lambda: SkipConcat(1, 3),
        lambda: nn.Sequential(nn.Conv2d(1, 1, 2), nn.AdaptiveAvgPool2d(10), nn.Conv2d(1, 1, 3)),
        lambda: nn.Sequential(nn.Conv2d(1, 1, 3, dilation=4), nn.AvgPool2d(3, 2, ceil_mode=True), nn.GELU()),
        lambda: Parts(lambda y: y[:, :, ::2]),
        lambda: Parts(lambda y: y[..., ::3, ::2]),
        lambda: Parts(lambda y: y.permute(0, 2, 3, 1)[:, ::2, ::3].permute(0, 3, 1, 2)),
        lambda: Parts(lambda y: torch.cat((y, y), dim=-3), channels=2),
        lambda: Parts(lambda y: y + functional.avg_pool2d(functional.pad(y, (1, 1, 2, 2)), (5, 3), 1)),
        lambda: Parts(lambda y: functional.pad(y.permute(0, 2, 3, 1), (0, 1, 0, 2)).permute(0, 3, 1, 2), channels=2),
        lambda: Parts(lambda y: functional.pad(y.permute(0, 2, 3, 1), (0, 0, 1, 2, 3, 4)).permute(0, 3, 1, 2)),
        lambda: Parts(lambda y: y + functional.pad(y, (3, 0, 3, 0))[:, :, :-3, :-3]),
        lambda: Parts(lambda y: functional.pad(y, pad=(2, 0)) + functional.pad(y, pad=(0, 2))),
        lambda: Parts(lambda y: y[:, :, :-1:2] + y[:, :, 1::2]),
        lambda: Parts(lambda y: functional.pad(y, (-2, 0, 0, -1))[..., -30:, :]),
        Uneven,
    ],
    ids=[
        "weights",
        "channels-last",
        "halves",
        "skip",
        "adaptive",
        "dilated",
        "rows",
        "steps",
        "last",
        "beside",
        "padded",
        "end",
        "begin",
        "moved",
        "two ways",
        "pairs of rows",
        "cut",
        "uneven",
    ],
)
def test_gradients_reach_exactly_the_receptive_field(build: Callable[[], nn.Module]) -> None:
    network = build()
    *_, last = table(network).values()
    box, unit = influence(network, 41)
    assert last.receptive_field and last.jump and last.start
    assert ReceptiveField(last.receptive_field, last.jump, last.start).box(*unit) == box


def test_parameters_without_a_layer_are_counted_once_where_they_are_used_first() -> None:
    rows = table(Weights())
    assert {name: row.parameters for name, row in rows.items()} == {"conv2d": 15, "mul": 1, "conv2d_1": 0}
    assert rows["conv2d"].kernel == (3, 5) and rows["conv2d"].dilation == (2, 1)
    assert [rows[name].macs for name in ("conv2d", "conv2d_1")] == [37 * 21 * 15, 35 * 17 * 15]


def test_what_is_computed_of_parameters_alone_has_no_row() -> None:
    class Bias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.ones(3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.bias.exp().mean()

    rows = table(Bias())
    assert list(rows) == ["add"]
    assert rows["add"].parameters == 3 and rows["add"].parents == ("input",)


def test_parents_are_rows_even_through_a_tuple() -> None:
    rows = table(Halves())
    assert rows["getitem"].parents == rows["getitem_1"].parents == ("first",)
    assert rows["cat"].parents == ("getitem", "long")


@pytest.mark.parametrize(("ceil_mode", "side"), [(False, 20), (True, 21)])
def test_shapes_follow_ceil_mode(ceil_mode: bool, side: int) -> None:
    assert table(nn.Sequential(nn.MaxPool2d(2, ceil_mode=ceil_mode)))["0"].shape == (1, side, side)


@pytest.mark.parametrize(
    ("layer", "field"),
    [
        (nn.AdaptiveAvgPool2d(39), (3, 3)),  # which leaves them as they are
        (nn.AdaptiveAvgPool2d(13), (5, 5)),
        (nn.AdaptiveMaxPool2d((13, 39)), (5, 3)),
        (nn.AdaptiveAvgPool2d(10), None),  # uneven
        (nn.AdaptiveAvgPool2d(78), None),  # repeated
        (nn.AdaptiveAvgPool2d(1), None),  # all of it
        (nn.MaxPool2d(3, 1, dilation=4), (11, 11)),
        (nn.Upsample(scale_factor=2), None),
        (nn.ConvTranspose2d(1, 1, 3), None),
        (nn.GroupNorm(1, 1), None),
    ],
    ids=str,
)
def test_pools_and_what_cannot_be_told(layer: nn.Module, field: tuple[int, int] | None) -> None:
    *_, last = table(nn.Sequential(nn.Conv2d(1, 1, 3), layer)).values()
    assert last.receptive_field == field


@pytest.mark.parametrize(
    "make",
    [
        lambda y: torch.cat((y, y), dim=3),
        lambda y: y + y[:, :, :1],
        lambda y: torch.mul(input=y, other=y[:, :, :1]),
        lambda y: y[:, 0].unsqueeze(1),
    ],
    ids=["one behind the other", "a row for all", "by name", "without channels"],
)
def test_positions_that_do_not_keep_to_themselves_have_no_receptive_field(make: Callable[[Tensor], Tensor]) -> None:
    assert table(Parts(make), size=42)["last"].receptive_field is None


def test_a_linear_layer_along_the_image_has_no_receptive_field() -> None:
    assert table(Rows())["mix"].receptive_field is None
    assert table(Rows())["mix"].macs == 41 * 41 * 41


def test_matrix_products_are_counted() -> None:
    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.matmul(x, x.transpose(2, 3)) @ x

    rows = table(Product())
    assert [row.macs for row in rows.values()] == [0, 41**3, 41**3]


def test_the_attention_switch_of_torch_is_as_before() -> None:
    assert torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(ValueError, match="does not take"):
        node_table(nn.Sequential(nn.Conv2d(3, 1, 3)), make_spec(8, 1))
    assert torch.backends.mha.get_fastpath_enabled()
