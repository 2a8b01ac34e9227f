"""Captured values are those of torchvision's extractor and of hooks, and the network is left as it was."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.feature_extraction import create_feature_extractor

from models.graph.trace import INPUT, capture, trace
from models.networks.registry import build_network
from tests.registered import LIGHT


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.manual_seed(3))


class InPlace(nn.Module):
    """Every way of writing over one's input: a module, a function, an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(x)))
        x = functional.relu(x - 0.5, inplace=True)
        return functional.dropout(x, training=self.training, inplace=True)


def test_values_of_a_residual_network_are_torchvisions(x: Tensor) -> None:
    network = torchvision.models.resnet18().eval()
    with torch.no_grad():  # its relus overwrite what comes before them; torchvision's extractor would show that
        for module in network.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
        found = capture(network, x)
        wanted = create_feature_extractor(network, return_nodes=list(found))(x)
    assert len(found) == 69 and "layer2.0.downsample.1" in found and "layer4.1.add" in found
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("name", LIGHT)
def test_values_of_registered_networks_are_torchvisions(name: str, x: Tensor) -> None:
    network = build_network(name, channels=3, height=32, width=32, classes=10).eval()
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    found = capture(network, x)
    with torch.no_grad():
        wanted = create_feature_extractor(network, return_nodes=list(found))(x)
        logits = network(x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    torch.testing.assert_close(list(found.values())[-1], logits, rtol=0, atol=0)


def test_values_of_a_plain_network_are_those_that_hooks_see(x: Tensor) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(3600, 5)).eval()
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = output.detach().clone()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in network.named_children()]
    network(x)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(capture(network, x), seen, rtol=0, atol=0)


def test_function_calls_and_repeated_modules_have_names_of_their_own(x: Tensor) -> None:
    network = build_network("lenet", channels=3, height=32, width=32, classes=10).eval()
    found = capture(network, x, ["relu", "relu_1", "pool", "pool_1"])
    with torch.no_grad():
        relu = network.conv1(x).relu()
        relu_1 = network.conv2(network.pool(relu)).relu()
    wanted = {"relu": relu, "relu_1": relu_1, "pool": network.pool(relu), "pool_1": network.pool(relu_1)}
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_what_an_in_place_operation_overwrites_is_shown_as_it_was(x: Tensor) -> None:
    network = InPlace().eval()
    found = capture(network, x)
    with torch.no_grad():
        bn = network.bn(network.conv(x))
    wanted = {"bn": bn, "relu": bn.clamp(min=0), "sub": bn.clamp(min=0) - 0.5, "relu_1": (bn - 0.5).clamp(min=0)}
    torch.testing.assert_close({name: found[name] for name in wanted}, wanted, rtol=0, atol=1e-7)
    assert (found["bn"] < 0).any() and (found["sub"] < 0).any()


@pytest.mark.parametrize("training", [True, False])
def test_the_network_itself_is_left_alone(training: bool, x: Tensor) -> None:
    network = InPlace().train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    given = x.clone()
    capture(network, x)
    assert network.training is network.bn.training is training
    assert network.relu.inplace
    assert not network._forward_hooks and not network.conv._forward_hooks
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(x, given)


def test_dropout_and_batch_statistics_are_off_even_in_a_training_network(x: Tensor) -> None:
    network = build_network("simple_cnn", channels=3, height=32, width=32, classes=10).train()
    found = capture(network, x)
    assert torch.equal(found["dropout"], found["relu_3"])


def test_named_values_come_in_the_order_asked_for(x: Tensor) -> None:
    network = build_network("lenet", channels=3, height=32, width=32, classes=10)
    assert list(capture(network, x, ["pool_1", "conv1"])) == ["pool_1", "conv1"]
    assert capture(network, x, []) == {}


@pytest.mark.parametrize("name", ["conv9", INPUT, ""])
def test_an_unknown_name_is_refused_with_those_there_are(name: str, x: Tensor) -> None:
    network = build_network("lenet", channels=3, height=32, width=32, classes=10)
    with pytest.raises(ValueError, match=f"no node '{name}'; it has conv1, relu, pool"):
        capture(network, x, [name])


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Counting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(x.shape[0]):
            x = x + 1
        return x


class Measuring(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * len(x)


@pytest.mark.parametrize("network", [Branching(), Counting(), Measuring()], ids=lambda m: type(m).__name__)
def test_a_network_whose_path_depends_on_the_data_is_refused(network: nn.Module) -> None:
    with pytest.raises(ValueError, match=f"{type(network).__name__} cannot be traced: "):
        trace(network, (3, 32, 32))
