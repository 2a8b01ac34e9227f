"""Conditions on shapes are decided for the input size; those on pixels or the number of images are refused."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.graph.node_table import node_table
from models.graph.trace import capture, trace
from models.graph.trace_check import check_trace
from tests.conftest import make_spec

SHAPE = (3, 20, 24)


class Net(nn.Module):
    def __init__(self, look: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.last = nn.Linear(4, 5)
        self.scale = nn.Parameter(torch.ones(1))
        self._look = look

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm(self.conv(x)))
        y = self._look(x, y) * self.scale
        return self.last(y.mean((2, 3)))


def asserted(x: Tensor, y: Tensor) -> Tensor:
    assert x.shape[1] in (1, 3) and x.dim() == 4 and y.ndim == 4, x.shape
    assert x.shape[1:] == SHAPE
    if len(x.shape) != 4 or x.size()[-1] != 24:
        raise ValueError("not an image")
    return y


def resized(x: Tensor, y: Tensor) -> Tensor:
    if x.size(2) > 16:
        y = functional.interpolate(y, (int(y.shape[2] / 2), int(y.size(3)) // 2))
    return y


def flattened(x: Tensor, y: Tensor) -> Tensor:
    n, c, height, width = y.shape
    if height * width != math.prod((18, 22)) or not c == 4:
        y = -y
    return y.view(n, c, -1).reshape(y.shape[0], c, height, width)


def in_parts(x: Tensor, y: Tensor) -> Tensor:
    parts = [part * (1 + i) for i, part in enumerate(y.chunk(2, 1))]
    first, *rest = y.shape[1:]
    assert first == 4 and len(rest) == 2
    return torch.cat(parts, 1)


def of_inner_values(x: Tensor, y: Tensor) -> Tensor:
    z = functional.max_pool2d(y, 2)
    for i in range(int(z.shape[1])):
        z = z + i
    return z if z.shape[-1] >= 11 and z.is_floating_point() else y


def per_channel(x: Tensor, y: Tensor) -> Tensor:
    for _ in range(x.shape[1]):
        y = y + 1
    return y * float(x.shape[2]) + [1, 2, 3, 4][x.shape[1]]


def for_any_batch(x: Tensor, y: Tensor) -> Tensor:
    assert x.shape[0] > 0 and len(x.shape) == 4, "an empty batch"
    if y.shape != x.shape:
        y = y + 1
    return y


def checked(x: Tensor, y: Tensor) -> Tensor:
    torch._assert(x.shape[1] == 3, f"{x.shape[1]} channels in {x.shape}")
    torch._check(x.dim() == 4, lambda: f"{x.shape}")
    assert f"{x.shape[1]}x{x.shape[2]:03d}x" + str(x.shape[3]) == "3x020x24"
    return y


def with_constants(x: Tensor, y: Tensor) -> Tensor:
    n, _, height, width = y.shape
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.arange(width) / width, indexing="ij")
    return y + rows + columns + torch.zeros(n, 1, height, width) + torch.ones(y.size(-1)) + torch.full((n, 1, 1, 1), 2)


@pytest.mark.parametrize(
    "look",
    [
        asserted,
        resized,
        flattened,
        in_parts,
        of_inner_values,
        per_channel,
        for_any_batch,
        checked,
        with_constants,
    ],
)
def test_conditions_on_shapes_follow_the_path_of_the_network(look: Callable[[Tensor, Tensor], Tensor]) -> None:
    net = Net(look).eval()
    check_trace(net, SHAPE)
    for batch in (1, 2, 5):  # the batch stays variable
        x = torch.randn(batch, *SHAPE)
        with torch.no_grad():
            torch.testing.assert_close(trace(net, SHAPE).module(x), net(x))
            torch.testing.assert_close(list(capture(net, x).values())[-1], net(x))


def test_constants_are_no_nodes_of_the_images() -> None:
    names = list(trace(Net(with_constants), SHAPE).names.values())
    assert not [name for name in names if re.match("linspace|arange|meshgrid|truediv|ones", name)]
    rows = node_table(Net(with_constants), make_spec(24, 3))
    assert {parent for row in rows for parent in row.parents} <= {"input", *(row.name for row in rows)}


class Optional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(48, 5)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float = 2.0, **more: Tensor) -> Tensor:
        if mask is not None:
            x = x * mask
        return self.fc(x.flatten(1)) * scale


def test_other_parameters_of_forward_have_their_defaults() -> None:
    net = Optional()
    check_trace(net, (3, 4, 4))
    assert list(trace(net, (3, 4, 4)).names.values()) == ["input", "flatten", "fc", "mul"]


def test_the_conditions_themselves_are_no_nodes() -> None:
    nodes = [name for name in trace(Net(asserted), SHAPE).names.values()]
    assert nodes == ["input", "conv", "norm", "relu", "mul", "mean", "last"]


def test_the_path_is_that_of_the_given_size() -> None:
    net = Net(lambda x, y: torch.tanh(y) if x.shape[-1] > 16 else y)
    assert "tanh" in trace(net, (3, 24, 24)).names.values()
    assert "tanh" not in trace(net, (3, 12, 12)).names.values()
    assert "tanh" in [row.name for row in node_table(net, make_spec(24, 3))]


def test_networks_on_the_meta_device_are_decided_too() -> None:
    with torch.device("meta"):
        net = Net(resized)
        assert "interpolate" in [row.name for row in node_table(net, make_spec(24, 3))]


def on_pixels(x: Tensor, y: Tensor) -> Tensor:
    return y if x.sum() > 0 else -y  # here


def on_an_item(x: Tensor, y: Tensor) -> Tensor:
    return y if x.max().item() > 0 else -y  # here


def on_the_batch(x: Tensor, y: Tensor) -> Tensor:
    return y if x.shape[0] == 32 else -y  # here


def on_the_whole_shape(x: Tensor, y: Tensor) -> Tensor:
    return y if x.shape == (32, *SHAPE) else -y  # here


def on_a_product(x: Tensor, y: Tensor) -> Tensor:
    return y if x.shape[0] * x.shape[1] == 21 else -y  # here


def as_a_number(x: Tensor, y: Tensor) -> Tensor:
    return y * float(x.mean())  # here


def by_type(x: Tensor, y: Tensor) -> Tensor:
    assert isinstance(x, Tensor), "a tensor"  # here
    return y


def counting(x: Tensor, y: Tensor) -> Tensor:
    for _ in range(len(x)):  # here
        y = y + 1
    return y


def one_by_one(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([one * 2 for one in y])  # here


def rounded(x: Tensor, y: Tensor) -> Tensor:
    return y.reshape(int(x.shape[0]), 4, -1, 2)  # here


def asserted_wrongly(x: Tensor, y: Tensor) -> Tensor:
    assert x.shape[1] == 1, "grey images only"  # here
    return y


@pytest.mark.parametrize(
    ("look", "reason"),
    [
        (on_pixels, "the value depends on the pixels"),
        (on_an_item, "the value depends on the pixels"),
        (on_the_batch, "the value depends on the number of images"),
        (on_the_whole_shape, "the value depends on the number of images"),
        (counting, "the length is the number of images"),
        (one_by_one, "the length is the number of images"),
        (on_a_product, "the value depends on the number of images"),
        (as_a_number, "the value depends on the pixels"),
        (by_type, "a tensor; tracing calls forward with stand-ins, which are no tensors"),
        (rounded, "the value depends on the number of images"),
        (asserted_wrongly, "grey images only"),
    ],
)
def test_other_conditions_are_refused_with_their_line(look: Callable[[Tensor, Tensor], Tensor], reason: str) -> None:
    lines = Path(__file__).read_text().splitlines()
    start = look.__code__.co_firstlineno
    number = next(i for i in range(start, len(lines)) if lines[i - 1].endswith("# here"))
    line = re.escape(lines[number - 1].strip())
    message = rf"^Net cannot be traced: .*test_shape_values.py:{number}: {reason}.* \(`{line}`\)$"
    with pytest.raises(ValueError, match=message):
        trace(Net(look), SHAPE)


def test_modules_work_as_before_after_a_refusal() -> None:
    call, attribute = nn.Module.__call__, nn.Module.__getattr__
    with pytest.raises(ValueError, match="cannot be traced"):
        trace(Net(on_an_item), SHAPE)
    assert nn.Module.__call__ is call and nn.Module.__getattr__ is attribute
