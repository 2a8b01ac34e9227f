"""The stripes' networks: a convolution needs its ReLU to tell directions apart."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from models.networks.registry import build_network
from training.data.builtin import load_stripes


def accuracy_after_training(name: str) -> float:
    data = load_stripes()

    def tensors(split: str) -> tuple[Tensor, Tensor]:
        part = getattr(data, split)
        return torch.from_numpy(part.images).reshape(-1, 1, 8, 8).float() / 128 - 1, torch.from_numpy(part.labels)

    (images, labels), (test_images, test_labels) = tensors("train"), tensors("test")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(name, channels=1, height=8, width=8, classes=2)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
        for _ in range(8):
            for batch in torch.randperm(len(images)).split(64):
                optimizer.zero_grad()
                functional.cross_entropy(network(images[batch]), labels[batch]).backward()
                optimizer.step()
    with torch.no_grad():
        return float((network(test_images).argmax(1) == test_labels).float().mean())


@pytest.mark.parametrize("name", ["stripes_conv1_relu", "stripes_conv2_relu"])
def test_with_relu_the_stripes_are_solved(name: str) -> None:
    assert accuracy_after_training(name) == 1.0


@pytest.mark.parametrize("name", ["stripes_conv1", "stripes_conv2"])
def test_without_relu_they_cannot_be(name: str) -> None:
    assert accuracy_after_training(name) < 0.7


@pytest.mark.parametrize("name", ["stripes_conv1", "stripes_conv2"])
def test_without_relu_the_network_is_one_affine_map(name: str) -> None:
    network = build_network(name, channels=1, height=8, width=8, classes=2).double()
    a, b, zero = torch.rand(5, 1, 8, 8).double(), torch.rand(5, 1, 8, 8).double(), torch.zeros(5, 1, 8, 8).double()
    torch.testing.assert_close(network(a + b) + network(zero), network(a) + network(b))
