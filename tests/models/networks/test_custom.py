"""A user's own network, `module:callable`: imported from the current directory, checked, rebuilt from a checkpoint."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models.checkpoint.directory import load_checkpoint
from models.networks.registry import build_network, find_network, input_size_for
from tests.conftest import make_checkpoint

SOURCE = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self, *, channels, classes, width, height, depth=4, kernels=(3,)):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, depth, kernels[0]), nn.BatchNorm2d(depth)
        self.fc = nn.Linear(depth, classes)

    def forward(self, x):
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))

def flat(classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))

def anything(**settings):
    return Own(**settings)

def needs(classes, alpha):
    return flat(classes)

def features(classes): return nn.Conv2d(3, 4, 3)
def wrong_count(): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
def two(classes):
    class Two(Own):
        def forward(self, x):
            return x, x
    return Two(channels=3, classes=classes, width=8, height=8)
def labels(classes):
    class Labels(Own):
        def forward(self, x):
            return super().forward(x).long()
    return Labels(channels=3, classes=classes, width=8, height=8)
def nothing(): return None
def picky(classes): return nn.Conv2d(7, 4, 3)
class Misspelt(Own):
    def forward(self, x):
        return self.fully_connected(x)
def broken(classes): return {}["key"]
class Constant(nn.Module):
    def __init__(self, *, classes):
        super().__init__()
        self.classes = classes
    def forward(self, x):
        return x.mean((1, 2, 3))[:, None].repeat(1, self.classes)
number = 3
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_nets.py").write_text(SOURCE)
    (tmp_path / "broken_net.py").write_text("import not_there_at_all\n")
    (tmp_path / "raising_net.py").write_text("1 / 0\n")
    path = list(sys.path)
    yield tmp_path
    assert sys.path == path
    for name in ("own_nets", "broken_net", "raising_net"):
        sys.modules.pop(name, None)


def build(name: str, **more: object) -> torch.nn.Module:
    return build_network(name, **{"channels": 3, "height": 8, "width": 8, "classes": 5, **more})  # type: ignore[arg-type]


def test_it_gets_the_keywords_it_takes() -> None:
    network = build("own_nets:Own", depth=6, kernels=(5,))
    assert network.conv.weight.shape == (6, 3, 5, 5) and network.fc.weight.shape == (5, 6)
    assert build("own_nets:flat")(torch.zeros(1, 3, 8, 8)).shape == (1, 5)
    assert build("own_nets:anything").fc.out_features == 5
    assert build("own_nets:needs", alpha=1)(torch.zeros(1, 3, 8, 8)).shape == (1, 5)


def test_every_folder_has_its_own_modules_of_our_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = sys.modules["models"]
    for name, width in (("first", 4), ("second", 6)):
        (tmp_path / name / "models").mkdir(parents=True)
        (tmp_path / name / "models" / "__init__.py").write_text("")
        (tmp_path / name / "models" / "mine.py").write_text(
            f"from torch import nn\n\n\ndef net(classes):\n"
            f"    return nn.Sequential(nn.Conv2d(3, {width}, 3), nn.Flatten(), nn.LazyLinear(classes))\n"
        )
    for name, width in (("first", 4), ("second", 6), ("first", 4)):
        monkeypatch.chdir(tmp_path / name)
        assert build("models.mine:net")[0].out_channels == width
        monkeypatch.chdir(tmp_path)  # in which there is no such folder
        assert build("own_nets:flat")[1].out_features == 5
        assert sys.modules["models"] is ours


def test_its_own_parameters_are_its_options() -> None:
    assert list(find_network("own_nets:Own").options) == ["depth", "kernels"]
    assert find_network("own_nets:Own").options["kernels"].default == (3,)


def test_the_check_leaves_the_network_as_it_was() -> None:
    network = build("own_nets:Own")
    assert network.training and network.bn.training
    assert network.bn.num_batches_tracked == 0 and torch.equal(network.bn.running_mean, torch.zeros(4))


def test_images_keep_their_size() -> None:
    assert input_size_for("own_nets:Own", (57, 57)) == (57, 57)
    assert input_size_for("own_nets:Own", (57, 40)) == (32, 32)
    assert input_size_for("own_nets:Own", (0, 0)) == (32, 32)


def test_a_checkpoint_names_it_and_rebuilds_it(here: Path) -> None:
    path = make_checkpoint(here / "run", model="own_nets:Own", size=8, options={"depth": 3}, count=8)
    checkpoint = load_checkpoint(path)
    assert checkpoint.config.model == "own_nets:Own"
    assert checkpoint.network.conv.out_channels == 3


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("absent_net:Own", "there is no module 'absent_net' in .* or installed"),
        ("own_nets:Onw", "own_nets has no 'Onw'; did you mean Own"),
        ("own_nets:number", "own_nets:number is int; it must be a class of torch.nn.Module or a function"),
        ("broken_net:Own", "importing broken_net failed: No module named 'not_there_at_all'"),
        ("raising_net:Own", "importing raising_net failed: ZeroDivisionError: division by zero"),
        ("own_nets:", "'own_nets:' is not module:callable"),
        ("own nets:x", "'own nets:x' is not module:callable"),
        ("subprocess:run", "'subprocess:run' is a part of subprocess, not a network of your own"),
        ("torch.hub:load", "'torch.hub:load' is a part of torch"),
        ("own_nets:features", r"features returns torch.float32 of shape \(2, 4, 6, 6\) for 2 images; .* \(2, 5\)"),
        ("own_nets:wrong_count", r"returns torch.float32 of shape \(2, 3\) .*must return .*, floats of shape \(2, 5\)"),
        ("own_nets:two", r"own_nets:two returns tuple; it must return logits, a tensor of shape \(2, 5\)"),
        ("own_nets:labels", r"returns torch.int64 of shape \(2, 5\) .*must return logits, floats"),
        ("own_nets:nothing", "own_nets:nothing returns NoneType; it must return a torch.nn.Module"),
        ("own_nets:picky", "own_nets:picky does not take 8x8 images of 3 channels: .*7"),
        ("own_nets:needs", "own_nets:needs needs 'alpha'; give it with --option alpha="),
        ("own_nets:Misspelt", "own_nets:Misspelt does not take 8x8 images .* no attribute 'fully_connected'"),
        ("own_nets:broken", "own_nets:broken cannot be made: KeyError: 'key'"),
        ("own_nets:Constant", "own_nets:Constant has no parameters, so there is nothing to learn"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_it_is_said(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build(name)


def test_an_unknown_option_lists_its_own() -> None:
    with pytest.raises(ValueError, match="own_nets:Own has no option 'deep'; it has depth, kernels"):
        build("own_nets:Own", deep=3)
