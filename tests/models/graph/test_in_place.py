"""In-place operations become ordinary ones: captured values are those computed, recorded by hand in eager mode."""

import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.feature_extraction import get_graph_node_names

from models.graph.node_table import node_table
from models.graph.trace import capture, trace
from models.graph.trace_check import check_trace
from tests.conftest import make_spec

SHAPE = (3, 8, 8)
Forward = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    """Two layers, and a forward that works in place."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(inplace=True)
        self.register_buffer("sum", torch.zeros(2, 3, 8, 8))
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, *SHAPE, generator=torch.manual_seed(3))


def overwriting(write: Callable[[Any], object]) -> Forward:
    """A layer, an operation in place whose result is not used, and another layer."""

    def forward(net: Net, x: Tensor) -> Tensor:
        x = net.conv(x)
        write(x)
        return net.last(x)

    return forward


WRITES: dict[str, Callable[[Any], object]] = {
    "relu_": lambda x: x.relu_(),
    "torch.relu_": lambda x: torch.relu_(x),
    "clamp_": lambda x: x.clamp_(min=0),
    "torch.clamp_": lambda x: torch.clamp_(x, -0.1, 0.1),
    "add_": lambda x: x.add_(1),
    "mul_": lambda x: x.mul_(0),
    "sub_ of itself": lambda x: x.sub_(x),
    "zero_": lambda x: x.zero_(),
    "fill_": lambda x: x.fill_(0.25),
    "masked_fill_": lambda x: x.masked_fill_(x < 0, 0.5),
    "leaky_relu_": lambda x: functional.leaky_relu_(x),
    "hardtanh_": lambda x: functional.hardtanh_(x, -0.2, 0.2),
    "elu_": lambda x: functional.elu_(x),
    "relu": lambda x: functional.relu(x, inplace=True),
    "hardswish": lambda x: functional.hardswish(x, inplace=True),
    "operator.iadd": lambda x: operator.iadd(x, 2),
    "out": lambda x: torch.add(x, 3, out=x),
    "on a detached one": lambda x: x.detach().tanh_(),
    "two": lambda x: x.mul_(2).relu_(),
}


@pytest.mark.parametrize("name", WRITES)
def test_the_layer_before_a_write_is_shown_as_computed(name: str, x: Tensor) -> None:
    net = Net(overwriting(WRITES[name])).eval()
    found = capture(net, x)
    with torch.no_grad():
        conv = net.conv(x)
        written = conv.clone()
        WRITES[name](written)
        last = net.last(written)
    assert not torch.equal(conv, written)
    torch.testing.assert_close({"conv": found["conv"], "last": found["last"]}, {"conv": conv, "last": last})
    check_trace(net, SHAPE)
    rows = {row.name: row for row in node_table(net, make_spec(8, 3))}
    assert "conv" not in rows["last"].parents and len(rows["last"].parents) == 1


@pytest.mark.parametrize("name", ["relu_", "add_", "hardswish", "operator.iadd", "two"])
def test_the_names_are_torchvisions(name: str) -> None:
    net = Net(overwriting(WRITES[name]))
    _, wanted = get_graph_node_names(net, suppress_diff_warning=True)
    assert list(trace(net, SHAPE).names.values())[1:] == wanted[1:]


def skip_around_a_module(net: Net, x: Tensor) -> Tensor:
    identity = x = net.conv(x)
    return net.last(net.relu(x)) + identity


def skip_around_an_operator(net: Net, x: Tensor) -> Tensor:
    y = x = net.conv(x)
    x += 1
    return net.last(x) * y


@pytest.mark.parametrize(
    ("forward", "write", "join"),
    [
        (skip_around_a_module, torch.relu, "add"),
        (skip_around_an_operator, lambda x: x + 1, "mul"),
    ],
)
def test_a_skip_connection_around_a_write_carries_the_written_value(
    forward: Forward, write: Callable[[Tensor], Tensor], join: str, x: Tensor
) -> None:
    net = Net(forward).eval()
    with torch.no_grad():
        conv = net.conv(x)
        written = write(conv.clone())
        last = net.last(written)
        wanted = {"conv": conv, "last": last, join: net(x)}
    found = capture(net, x)
    torch.testing.assert_close({name: found[name] for name in wanted}, wanted)
    rows = {row.name: row for row in node_table(net, make_spec(8, 3))}
    (name,) = rows["last"].parents
    assert name in ("relu", "add") and rows[name].parents == ("conv",)
    assert rows[join].parents == ("last", name)


def halves(net: Net, x: Tensor) -> Tensor:
    first, second = net.conv(x).chunk(2, 1)
    first.relu_()
    return net.last(torch.cat((first, second), 1))


def view_alone(net: Net, x: Tensor) -> Tensor:
    return net.conv(x).flatten(1).relu_().view(-1, 4, 8, 8).tanh_()


def unsqueezed(net: Net, x: Tensor) -> Tensor:
    x = net.last(net.conv(x))
    x.unsqueeze_(1)
    return x[:, 0]


def shared_module(net: Net, x: Tensor) -> Tensor:
    return net.relu(net.last(net.drop(net.relu(net.conv(x) - 0.1)) - 0.1))


def the_image_itself(net: Net, x: Tensor) -> Tensor:
    x.sub_(0.5)
    return net.conv(x)


def into_a_new_tensor(net: Net, x: Tensor) -> Tensor:
    y = torch.ones(2, 4, 8, 8)
    y += net.conv(x)
    return net.last(y)


@pytest.mark.parametrize(
    "forward", [halves, view_alone, unsqueezed, shared_module, the_image_itself, into_a_new_tensor]
)
def test_values_that_share_no_elements_with_what_is_read_later_are_rewritten(forward: Forward, x: Tensor) -> None:
    net = Net(forward).eval()
    given = x.clone()
    found = capture(net, x)
    assert torch.equal(x, given)
    with torch.no_grad():
        wanted = net(x.clone())
        image = x - 0.5 if forward is the_image_itself else x
        torch.testing.assert_close(found["conv"], net.conv(image))
    torch.testing.assert_close(list(found.values())[-1], wanted)
    check_trace(net, SHAPE)


def through_a_view(net: Net, x: Tensor) -> Tensor:
    x = net.conv(x)
    x.view(-1).clamp_(min=0)  # here
    return net.last(x)


def through_a_channel(net: Net, x: Tensor) -> Tensor:
    x = net.conv(x)
    x[:, 0].zero_()  # here
    return net.last(x)


def under_a_view(net: Net, x: Tensor) -> Tensor:
    x = net.conv(x)
    flat = x.flatten(1)
    x = net.last(net.relu(x))  # here
    return x.flatten(1) + flat


def elements(net: Net, x: Tensor) -> Tensor:
    x = net.conv(x)
    x[:, 0] = 0  # here
    return net.last(x)


def copied(net: Net, x: Tensor) -> Tensor:
    y = net.conv(x)
    y.copy_(x[:, :1])  # here
    return net.last(y)


def random(net: Net, x: Tensor) -> Tensor:
    return net.last(net.conv(x).bernoulli_(0.5))  # here


def parameter(net: Net, x: Tensor) -> Tensor:
    net.conv.weight.data.clamp_(-0.1, 0.1)  # here
    return net.last(net.conv(x))


def buffer(net: Net, x: Tensor) -> Tensor:
    net.sum += x  # here
    return net.last(net.conv(net.sum))


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (through_a_view, "clamp_ also changes another value that shares its memory and is read later"),
        (through_a_channel, "zero_ also changes another value that shares its memory and is read later"),
        (under_a_view, "relu also changes another value that shares its memory and is read later"),
        (elements, "assigning to elements has no ordinary form"),
        (copied, "copy_ changes a value in place and has no ordinary form"),
        (random, "bernoulli_ changes a value in place and has no ordinary form"),
        (buffer, "forward changes the buffer sum; evaluation must leave it as it is"),
        (parameter, "clamp_ changes a parameter or buffer"),
    ],
)
def test_the_rest_is_refused_with_its_line(forward: Forward, reason: str) -> None:
    lines = Path(__file__).read_text().splitlines()
    start = forward.__code__.co_firstlineno
    number = next(i for i in range(start, len(lines)) if lines[i - 1].endswith("# here"))
    with pytest.raises(ValueError, match=rf"^Net cannot be traced: .*test_in_place.py:{number}: {re.escape(reason)}"):
        trace(Net(forward), SHAPE)


def test_the_network_still_works_in_place_itself(x: Tensor) -> None:
    net = Net(skip_around_a_module)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trace(net, SHAPE)
    check_trace(net, SHAPE)
    assert net.relu.inplace and net.training and not net.conv._forward_hooks
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


def test_inference_mode_changes_nothing() -> None:
    net = Net(skip_around_a_module)
    wanted = list(trace(net, SHAPE).names.values())
    with torch.inference_mode():
        assert list(trace(net, SHAPE).names.values()) == wanted


def test_writes_to_data_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`data` has no ordinary form; use .* detach"):
        trace(Net(overwriting(lambda x: x.data.clamp_(0))), SHAPE)
