"""A step that fails names its cause: an operation without bf16, or a line of the user's network."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from models.errors import UserError
from models.images.input_spec import InputSpec
from training.loop.learner import Learner, make_learner, train_step
from training.recipes.recipe import Recipe


class Net(nn.Module):
    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.fc = nn.Conv2d(channels, 2, 3, padding=1), nn.Linear(2 * 64, 3)
        self.offset = nn.Conv2d(2, 18, 3, padding=1)
        self.deform = torchvision.ops.DeformConv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.kind == "deform":
            x = self.deform(x, self.offset(x))
        elif self.kind == "missing":
            x = x + torch.special.bessel_j0(x.detach())
        elif self.kind == "mixed types":
            x = torch.zeros(x.shape).masked_scatter(x > 0, x)
        elif self.kind == "never":
            raise RuntimeError("as always")
        return self.fc(x.view(x.size(0), -1))


def learner(kind: str, *, channels: int = 1, **settings: object) -> Learner:
    spec = InputSpec(
        mode="L" if channels == 1 else "RGB",
        height=8,
        width=8,
        resize=(8, 8),
        background=(0,) * channels,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )
    return make_learner(Net(kind, channels), spec, Recipe(device="cpu", **settings), steps=4)


def step(one: Learner, channels: int = 1) -> Tensor:
    return train_step(one, torch.zeros(2, 8, 8, channels, dtype=torch.uint8), torch.tensor([0, 2]))


@pytest.mark.parametrize("kind", ["deform", "missing", "mixed types"])
def test_an_operation_without_bf16_is_named_with_its_line_and_the_way_out(kind: str) -> None:
    with pytest.raises(UserError, match=r"^Net does not run in bf16: .*test_learner\.py:\d+: .*--precision fp32$"):
        step(learner(kind, precision="bf16"))
    assert torch.isfinite(step(learner(kind, precision="fp32"))).all()


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_line_that_fails_in_every_precision_is_named_alone(precision: str) -> None:
    with pytest.raises(UserError, match=r"^Net fails in training: .*test_learner\.py:\d+: as always$"):
        step(learner("never", precision=precision))


def test_a_view_after_a_convolution_takes_grey_images() -> None:
    step(learner("plain", precision="fp32"))
    with pytest.raises(UserError, match=r"test_learner\.py:\d+: view size is not compatible"):
        step(learner("plain", precision="fp32", channels_last=True))
    step(learner("plain", channels=3, precision="fp32"), channels=3)


def test_our_own_faults_stay_bugs() -> None:
    one = learner("plain", precision="fp32")
    with pytest.raises(RuntimeError, match="permute"):
        train_step(one, torch.zeros(2, 8, dtype=torch.uint8), torch.tensor([0, 2]))
