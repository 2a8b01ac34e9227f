"""The logits of an image depend on this image alone: neither on chance nor on the rest of its batch."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.errors import UserError
from models.graph.image_check import check_images_apart
from models.graph.trace_check import check_trace
from models.networks.registry import build_network

SHAPE = (3, 8, 8)


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv, self.fc = kind, nn.Conv2d(3, 4, 3), nn.Linear(144, 5)

    def head(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return FORMS[self.kind](self, x)


RANDOM = "the result is random in evaluation mode; use self.training"
MIXED = "the result for an image depends on the other images of its batch"
FORMS = {
    "dropout": lambda net, x: net.head(functional.dropout(x)),
    "noise": lambda net, x: net.head(x + torch.randn_like(x)),
    "mean": lambda net, x: net.head(x - x.mean()),
    "item": lambda net, x: net.head(x * x.mean().item()),
    "softmax": lambda net, x: net.head(x).softmax(0),
    "statistics": lambda net, x: net.head(functional.batch_norm(x, None, None, training=True)),
    "selected": lambda net, x: net.head(x) + x[x > 0].sum(),
    "order": lambda net, x: net.head(x.flip(0)),
    "Python's chance": lambda net, x: net.head(x) * (2 if random.random() < 0.5 else 1),
    "numpy's chance": lambda net, x: net.head(x) * float(np.random.rand()),
}


def check(network: nn.Module) -> None:
    check_images_apart(check_trace(network, SHAPE), network, SHAPE)


@pytest.mark.parametrize("kind", FORMS)
def test_chance_and_other_images_are_refused(kind: str) -> None:
    if "chance" in kind:
        reason = "its logits are random in evaluation mode|the graph differs from the network in its logits"
    else:
        reason = rf".*test_image_check\.py:\d+: {RANDOM if kind in ('dropout', 'noise') else MIXED} \(`"
    with pytest.raises(UserError, match=rf"^Net cannot be (exported|traced): ({reason})"):
        check(Net(kind))


@pytest.mark.parametrize("name", ["lenet", "se_resnet20", "torchvision:mobilenet_v3_small"])
def test_other_networks_are_accepted_and_left_alone(name: str) -> None:
    network = build_network(name, channels=3, height=32, width=32, classes=10).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    check_images_apart(check_trace(network, (3, 32, 32)), network, (3, 32, 32))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert all(module.training for module in network.modules())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
