"""A user's own network while it learns."""

from pathlib import Path

import pytest
from conftest import run_command as run

pytestmark = pytest.mark.usefixtures("own_directory")

OWN = """
from torch import nn


class Own(nn.Module):
    def __init__(self, *, classes):
        super().__init__()
        self.norm, self.last = nn.BatchNorm2d(1), nn.LazyLinear(classes)

    def forward(self, x):
        y = self.last(self.norm(x).flatten(1))
        return self.learning(y) if self.training else y


class TwoHeads(Own):
    def learning(self, y):
        return y, y


class Careless(Own):
    def learning(self, y):
        return {}["auxiliary"]
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("TwoHeads", "in training mode returns tuple; it must return logits, a tensor of shape (2, 10)"),
        ("Careless", "in training mode does not take 8x8 images of 1 channels: 'auxiliary'"),
    ],
)
def test_a_network_that_is_another_while_it_learns_is_refused(
    name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("while_learning.py").write_text(OWN)
    assert run("train", f"while_learning:{name}", "--data", "digits", "--out", "out") == 1
    assert f"while_learning:{name} {message}" in capsys.readouterr().err
    assert not Path("out").exists()
