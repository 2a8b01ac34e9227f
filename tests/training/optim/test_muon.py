"""Muon on the kernels of convolutions, against torch's own optimizers and against singular values."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from training.optim.muon import BatchedMuon, convolution_kernels
from training.optim.schedules import make_optimizer
from training.recipes.recipe import Recipe

RECIPE = Recipe(optimizer="muon", learning_rate=1e-2, weight_decay=0.1)
IMAGES = torch.rand((16, 3, 8, 8), generator=torch.Generator().manual_seed(0))


def small() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(36, 5))


def backward(network: nn.Module, images: torch.Tensor = IMAGES) -> None:
    network.zero_grad()
    network(images).square().sum().backward()


def test_kernels_learn_as_the_weights_of_a_linear_layer_on_patches_do() -> None:
    network = nn.Conv2d(3, 8, 3)
    flat = nn.Parameter(network.weight.detach().flatten(1).clone())
    ours = make_optimizer(network, RECIPE)
    torchs = torch.optim.Muon([flat], lr=ours.param_groups[-1]["lr"], weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    patches = nn.functional.unfold(IMAGES, 3).transpose(1, 2)  # (N, L, 27)
    for rate in (0.01, 0.02, 0.005):
        ours.param_groups[-1]["lr"] = torchs.param_groups[0]["lr"] = rate  # as a schedule does
        network.zero_grad()
        network(IMAGES).square().sum().backward()
        flat.grad = None
        (patches @ flat.T + network.bias.detach()).square().sum().backward()
        ours.step()
        torchs.step()
    torch.testing.assert_close(network.weight.flatten(1), flat, rtol=0, atol=1e-3)
    assert (network.weight.detach().flatten(1) - flat).abs().mean() < 1e-4


def test_matrices_that_share_a_batch_learn_as_with_torchs_own() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 27), (27, 8), (8, 12), (16, 16), (8, 27), (4, 9)]
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    ours, torchs = ([nn.Parameter(matrix.clone()) for matrix in start] for _ in range(2))
    settings: dict[str, float] = {"lr": 0.02, "weight_decay": 0.1}
    batched = BatchedMuon(ours, **settings)
    single = torch.optim.Muon(torchs, **settings, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        for index, (found, wanted) in enumerate(zip(ours, torchs, strict=True)):
            gradient = torch.randn(found.shape, generator=generator)
            found.grad, wanted.grad = (None, None) if step == index == 1 else (gradient, gradient.clone())
        batched.step()
        single.step()
    for found, wanted, before in zip(ours, torchs, start, strict=True):
        assert (found - wanted).norm() < 0.01 * (wanted - before).norm()  # of bf16's rounding
    assert [sorted(state) for state in batched.state_dict()["state"].values()] == [["momentum_buffer"]] * 6


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_step_is_as_long_in_every_direction(layout: torch.memory_format) -> None:
    network = nn.Conv2d(8, 16, 3)
    network.to(memory_format=layout)
    before = network.weight.detach().clone()
    optimizer = make_optimizer(network, RECIPE.override({"weight_decay": 0.0}))
    backward(network, torch.rand(16, 8, 8, 8).contiguous(memory_format=layout))
    assert network.weight.grad is not None
    u, _, v = torch.linalg.svd(network.weight.grad.flatten(1), full_matrices=False)
    optimizer.step()
    moved = (before - network.weight.detach()).flatten(1)
    along = (u.T @ moved @ v.T).diagonal() / (optimizer.param_groups[-1]["lr"] * 0.2 * 72**0.5)
    assert 0.5 < along.min() and along.max() < 1.5  # what five iterations leave; the gradient's own differ by far more


def test_all_but_the_kernels_learns_as_with_adamw() -> None:
    network = small()
    other = copy.deepcopy(network)
    kernels = {id(kernel) for kernel in convolution_kernels(network)}
    assert kernels == {id(network[0].weight), id(network[4].weight)}
    muon, adamw = make_optimizer(network, RECIPE), make_optimizer(other, RECIPE.override({"optimizer": "adamw"}))
    for each in (network, other):
        backward(each)
    muon.step()
    adamw.step()
    for (name, found), wanted in zip(network.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(found, wanted) == (id(found) not in kernels), name


def test_the_layout_of_the_kernels_changes_nothing_but_rounding() -> None:
    network, other = small(), small().to(memory_format=torch.channels_last)
    for each, layout in ((network, torch.contiguous_format), (other, torch.channels_last)):
        optimizer = make_optimizer(each, RECIPE)
        backward(each, IMAGES.contiguous(memory_format=layout))
        optimizer.step()
    for found, wanted, start in zip(
        convolution_kernels(network), convolution_kernels(other), convolution_kernels(small()), strict=True
    ):
        assert (found - wanted).norm() < 0.02 * (found - start).norm()


def test_what_is_frozen_stays() -> None:
    network = small()
    network[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    optimizer = make_optimizer(network, RECIPE)
    backward(network)
    optimizer.step()
    moved = {name for name, tensor in network.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved == set(before) - {"0.weight"}


def test_kernels_of_any_strides_learn() -> None:
    network = nn.Conv2d(4, 4, 3)
    network.weight = nn.Parameter(network.weight.detach().transpose(0, 2).contiguous().transpose(0, 2))
    before = network.weight.detach().clone()
    optimizer = make_optimizer(network, RECIPE)
    backward(network, torch.rand(2, 4, 8, 8))
    optimizer.step()
    assert (network.weight != before).all()


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_kernels_that_are_computed_are_left_to_adamw(norm: Callable[[nn.Module], nn.Module]) -> None:
    network = nn.Sequential(norm(nn.Conv2d(3, 8, 3)), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 5))
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    optimizer = make_optimizer(network, RECIPE)
    assert [id(kernel) for kernel in convolution_kernels(network)] == [id(network[1].weight)]
    backward(network)
    optimizer.step()
    assert all(not torch.equal(tensor, before[name]) for name, tensor in network.named_parameters())
    with pytest.raises(ValueError, match="this network has none"):
        make_optimizer(network[0], RECIPE)


def test_a_gradient_in_another_layout_is_the_same_gradient() -> None:
    moved = []
    for layout in (torch.contiguous_format, torch.channels_last):
        network = small()
        optimizer = make_optimizer(network, RECIPE)
        backward(network)
        for kernel in convolution_kernels(network):
            assert kernel.grad is not None
            kernel.grad = kernel.grad.contiguous(memory_format=layout)
        optimizer.step()
        moved.append(network[0].weight.detach())
    assert torch.equal(*moved)


def test_a_network_without_kernels_is_refused() -> None:
    with pytest.raises(ValueError, match="muon is for convolutions without groups; this network has none"):
        make_optimizer(nn.Linear(2, 2), RECIPE)
