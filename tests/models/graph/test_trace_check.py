"""A graph that computes something else than its network is refused."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.graph.trace import trace
from models.graph.trace_check import check_trace
from models.networks.registry import build_network

SHAPE = (3, 8, 8)


class ByType(nn.Module):
    """Changes a value in a way that tracing cannot see: what stands for it there is no tensor."""

    def __init__(self, *, zero: bool = False) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        if zero:
            nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if isinstance(y, Tensor):
            y = torch.relu(y)
        return self.last(y.mean((2, 3)))


@pytest.mark.parametrize("zero", [False, True])
def test_a_change_that_tracing_does_not_see_is_refused(zero: bool) -> None:
    network = ByType(zero=zero)
    trace(network, SHAPE)
    with pytest.raises(ValueError, match="ByType cannot be traced: the graph differs from the network"):
        check_trace(network, SHAPE)


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x).flatten(1)


@pytest.mark.parametrize("name", ["lenet", "resnet20", "se_resnet20", "skip_cnn", "torchvision:mobilenet_v3_small"])
def test_networks_are_accepted_and_left_alone(name: str) -> None:
    network = build_network(name, channels=3, height=32, width=32, classes=10).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = torch.get_rng_state()
    check_trace(network, (3, 32, 32))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in network.modules())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_random_numbers_are_the_same_on_both_sides() -> None:
    check_trace(Noisy(), SHAPE)


def test_double_precision_is_checked_too() -> None:
    check_trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten()).double(), SHAPE)
