"""A user's own network while it learns."""

from pathlib import Path

import pytest
import torch

from tests.conftest import run_command as run

pytestmark = pytest.mark.usefixtures("own_directory")

OWN = """
import torch
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


class Expanded(Own):
    def __init__(self, *, classes):
        super().__init__(classes=classes)
        self.register_buffer("middle", torch.tensor(0.5).expand(1, classes), persistent=False)

    def learning(self, y):
        return y - self.middle


class Careless(Own):
    def learning(self, y):
        return {}["auxiliary"]


class Bessel(Own):
    def learning(self, y):
        return y

    def forward(self, x):
        return super().forward(torch.special.bessel_j0(x))


class Picky(Own):
    def forward(self, x):
        assert x.shape[1] == 3, "colour only"
        return super().forward(x)


class Fallback(Own):
    def learning(self, y):
        return y

    def forward(self, x):
        try:
            x = x.reshape(x.shape[0], 99)
        except RuntimeError:
            x = x.flatten(1)
        return super().forward(x.reshape(-1, 1, 8, 8))


class Random(Own):
    def learning(self, y):
        return y

    def forward(self, x):
        return super().forward(nn.functional.dropout(x))


class Mixing(Own):
    def learning(self, y):
        return y

    def forward(self, x):
        return super().forward(x - x.mean())


class ByPixels(Own):
    def learning(self, y):
        return y

    def forward(self, x):
        return super().forward(x * 2 if x.max() > 1 else x)
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


REFUSED = {
    "Picky": ("does not take 8x8 images of 1 channels: colour only (", 'assert x.shape[1] == 3, "colour only"'),
    "Fallback": ("shape '[2, 99]' is invalid for input of size 128 (", "x = x.reshape(x.shape[0], 99)"),
    "Random": ("the result is random in evaluation mode", "return super().forward(nn.functional.dropout(x))"),
    "Mixing": ("depends on the other images of its batch", "return super().forward(x - x.mean())"),
    "ByPixels": ("the value depends on the pixels", "return super().forward(x * 2 if x.max() > 1 else x)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_export_would_refuse_is_refused_before_training_with_its_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reason, line = REFUSED[name]
    Path("to_export.py").write_text(OWN)
    assert run("train", f"to_export:{name}", "--data", "digits", "--out", "out") == 1
    message = capsys.readouterr().err
    assert reason in message and message.count("\n") == 1
    number = 1 + [text.strip() for text in OWN.splitlines()].index(line)
    assert f"to_export.py:{number}: " in message and f"`{line}`" in message
    assert not Path("out").exists()


@pytest.mark.usefixtures("without_pictures")
def test_a_network_that_is_another_while_it_learns_is_taken_where_it_does_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("packed.py").write_text(OWN)
    sizes = {"norm.weight": (1,), "norm.bias": (1,), "norm.running_mean": (1,), "norm.running_var": (1,)}
    sizes |= {"last.weight": (10, 64), "last.bias": (10,)}
    torch.save({name: torch.rand(size) for name, size in sizes.items()}, "theirs.pth")
    words = ["--data", "digits", "--weights", "theirs.pth", "--epochs", "0", "--out", "out"]
    assert run("train", "packed:TwoHeads", *words) == 0, capsys.readouterr().err


@pytest.mark.usefixtures("without_pictures")
def test_buffers_that_cannot_be_written_to_are_left_alone() -> None:
    Path("expanded.py").write_text(OWN)
    assert run("train", "expanded:Expanded", "--data", "digits", "--epochs", "1", "--out", "out") == 0


UNTRACEABLE = """
import torch
from torch import nn


class Own(nn.Module):
    def __init__(self, *, classes):
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 4, 3), nn.LazyLinear(classes)

    def forward(self, x):
        return self.last(self.inner(self.conv(x)).flatten(1))


class Branching(Own):
    def inner(self, x):
        return x if x.sum() > 0 else -x  # Branching


class Assigning(Own):
    def inner(self, x):
        x[:, 0] = 0  # Assigning
        return x


class Overwriting(Own):
    def inner(self, x):
        torch.relu_(x.flatten(1))  # Overwriting
        return x


class Unseen(Own):
    def inner(self, x):
        x.data = x.relu()
        return x


class OnShapes(Own):
    def forward(self, x):
        assert x.shape[1] in (1, 3)
        return super().forward(x if x.dim() == 4 else x[None])

    def inner(self, x):
        return x.relu_()
"""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Branching", "the value depends on the pixels"),
        ("Assigning", "assigning to elements has no ordinary form"),
        ("Overwriting", "relu_ also changes another value that shares its memory and is read later"),
    ],
)
def test_a_network_that_cannot_be_traced_is_refused_before_it_learns(
    name: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = f"untraceable_{name.lower()}"
    Path(f"{module}.py").write_text(UNTRACEABLE)
    number = next(i for i, line in enumerate(UNTRACEABLE.splitlines(), 1) if line.endswith(f"# {name}"))
    before = set(Path().iterdir())
    for words in ([], ["--out", "out"]):
        assert run("train", f"{module}:{name}", "--data", "digits", *words) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        assert f"{name} cannot be traced: {module}.py:{number}: {reason}" in err
    assert {path for path in Path().iterdir() if path.name != "__pycache__"} == before


def test_a_network_that_assigns_data_is_refused_before_it_learns(capsys: pytest.CaptureFixture[str]) -> None:
    Path("unseen.py").write_text(UNTRACEABLE)
    assert run("train", "unseen:Unseen", "--data", "digits", "--out", "out") == 1
    error = capsys.readouterr().err
    assert "Unseen cannot be traced: unseen.py:" in error and "`data` has no ordinary form" in error
    assert not Path("out").exists()


@pytest.mark.usefixtures("without_pictures")
def test_a_network_that_asserts_shapes_and_works_in_place_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    Path("on_shapes.py").write_text(UNTRACEABLE)
    words = ["--data", "digits", "--epochs", "1", "--out", "out"]
    assert run("train", "on_shapes:OnShapes", *words) == 0, capsys.readouterr().err


@pytest.mark.usefixtures("without_pictures")
def test_an_operation_that_onnx_lacks_is_named_before_training_and_by_export(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("bessel.py").write_text(OWN)
    words = ["--data", "digits", "--epochs", "1", "--precision", "fp32", "--out", "out"]
    assert run("train", "bessel:Bessel", *words) == 0
    number = 1 + OWN.splitlines().index("        return super().forward(torch.special.bessel_j0(x))")
    named = f"(bessel.py:{number}: `return super().forward(torch.special.bessel_j0(x))`)"
    told, _, rest = capsys.readouterr().out.partition("epoch 1/1")
    assert named in told and "--formats torchscript" in told and rest
    assert run("export", "out") == 1
    assert named in capsys.readouterr().err
    assert run("export", "out", "--formats", "torchscript", "--out", "artifacts") == 0
