"""Images that are smaller in the first epochs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from models.images.input_spec import InputSpec
from tests.training.interruption import interrupt_after
from tests.training.tiny_runs import RECIPE, same, tiny
from training.augment.resizing import resized, side_at_epoch
from training.data.splits import Splits
from training.events import Report, ignore_events
from training.loop.fit import FitResult, fit
from training.loop.process_group import SINGLE_PROCESS
from training.loop.resume import read_state
from training.loop.trainer import Trainer, check_input_sizes


def pooled() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


def test_sides_are_small_for_half_of_the_epochs_and_full_for_the_last_fifth() -> None:
    assert [side_at_epoch(n, 10, 32, initial_scale=0.5) for n in range(1, 11)] == [
        16,
        16,
        16,
        16,
        16,
        20,
        28,
        32,
        32,
        32,
    ]
    assert [side_at_epoch(n, 5, 224, initial_scale=0.75) for n in range(1, 6)] == [168, 168, 188, 224, 224]
    assert [side_at_epoch(n, 3, 30, initial_scale=1.0) for n in range(1, 4)] == [30, 30, 30]  # no multiple of four
    assert side_at_epoch(1, 1, 28, initial_scale=0.5) == 28  # a single epoch has what is served
    assert side_at_epoch(1, 10, 8, initial_scale=0.01) == 4


def test_images_become_smaller_as_pillow_makes_them() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    wanted = np.stack([Image.fromarray(image).resize((20, 24), Image.Resampling.BILINEAR) for image in images])
    found = resized(torch.from_numpy(images), (24, 20))
    assert found.dtype == torch.float32 and found.shape == (3, 24, 20, 3)
    assert np.abs(found.numpy() - wanted).max() <= 1  # Pillow rounds
    whole = torch.from_numpy(images)
    assert resized(whole, (32, 32)) is whole


def train(
    digits: tuple[InputSpec, Splits], folder: Path, report: Report = ignore_events, *, resume: bool = False
) -> FitResult:
    spec, data = digits
    folder.mkdir(exist_ok=True)
    state = read_state(folder) if resume else None
    recipe = replace(RECIPE, epochs=4, initial_scale=0.5)
    return fit(pooled(), data, recipe, folder, report, spec=spec, state=state)


def test_training_images_grow_and_those_that_are_judged_do_not(
    digits: tuple[InputSpec, Splits], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []  # heights, while learning and while not
    forward = nn.BatchNorm2d.forward

    def watch(self: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
        seen.append((x.shape[2] + 2, self.training))
        return forward(self, x)

    monkeypatch.setattr(nn.BatchNorm2d, "forward", watch)
    train(digits, tmp_path)
    heights = [height for height, training in seen if training]
    assert heights == sorted(heights) and set(heights) == {4, 8} and heights.count(4) == heights.count(8)
    judged = [height for height, training in seen if not training]
    assert set(judged[1:]) == {8} and judged[0] == 4  # the first one tried whether the network takes it


def test_a_resumed_run_goes_on_at_the_same_size(digits: tuple[InputSpec, Splits], tmp_path: Path) -> None:
    whole = train(digits, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(digits, tmp_path / "parts", interrupt_after(2))
    assert same(whole, train(digits, tmp_path / "parts", resume=True))


def test_a_network_of_one_size_is_refused_before_it_learns(digits: tuple[InputSpec, Splits], tmp_path: Path) -> None:
    network = tiny().train()
    with pytest.raises(ValueError, match="this network takes none of 4x4, only of 8x8 for certain; leave init"):
        fit(network, digits[1], replace(RECIPE, initial_scale=0.5), tmp_path / "run", ignore_events, spec=digits[0])
    assert network.training and not (tmp_path / "run").exists()
    check_input_sizes(network, digits[0], [(8, 8)])


class Blocks(nn.Module):
    """Takes sides that are multiples of 8, as what begins with a rearrangement of pixels does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(64, 10, 1), nn.BatchNorm2d(10).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[2] % 8 == 0
        return self.norm(self.conv(nn.functional.pixel_unshuffle(x, 8))).mean((2, 3))


def test_every_size_on_the_way_is_tried(digits: tuple[InputSpec, Splits]) -> None:
    spec = replace(digits[0], height=32, width=32, resize=(32, 32))
    network = Blocks()
    check_input_sizes(network, spec, [(16, 16), (24, 24)])
    with pytest.raises(ValueError, match="takes none of 20x20, only of 32x32 for certain"):
        check_input_sizes(network, spec, [(16, 16), (20, 20), (24, 24)])
    assert network.training and not network.norm.training
    recipe = replace(RECIPE, epochs=10, initial_scale=0.5)
    images = digits[1].train.in_memory().take(torch.arange(32))
    large = type(images)(images.images.repeat(1, 4, 4, 1), images.labels)
    with pytest.raises(ValueError, match="takes none of 20x20"):
        Trainer(network, Splits(large, large, large), recipe, spec, {}, SINGLE_PROCESS)
