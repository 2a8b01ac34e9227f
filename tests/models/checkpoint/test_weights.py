"""Weights from a file: everything fits, but for a head of another class count, which is skipped and said."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from models.checkpoint.weights import load_pretrained
from models.networks.registry import build_network
from tests.registered import in_acceptance


def build(name: str = "simple_cnn", channels: int = 3, classes: int = 10, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(name, channels=channels, height=32, width=32, classes=classes)


def write(path: Path, weights: Any) -> Path:
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
    return path


@pytest.mark.parametrize("file", ["w.pth", "w.pt", "w.safetensors"])
@pytest.mark.parametrize("name", ["simple_cnn", "resnet20", "squeezenet1_1"])
def test_weights_of_the_same_network_all_fit(file: str, name: str, tmp_path: Path) -> None:
    source, network = build(name, seed=1), build(name)
    report = load_pretrained(network, write(tmp_path / file, source.state_dict()))
    torch.testing.assert_close(network.state_dict(), source.state_dict(), rtol=0, atol=0)
    assert set(report.loaded) == set(source.state_dict()) and not report.skipped
    assert str(report) == f"{len(report.loaded)} tensors loaded"


@pytest.mark.parametrize(
    ("name", "head"),
    [("simple_cnn", "fc2"), ("resnet18", "fc"), ("mobilenet_v2", "classifier.1"), ("squeezenet1_1", "classifier.1")],
)
def test_a_head_of_another_class_count_is_skipped_and_said(name: str, head: str, tmp_path: Path) -> None:
    source, network = build(name, classes=1000, seed=1), build(name, classes=3)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    report = load_pretrained(network, write(tmp_path / "w.pth", source.state_dict()))
    assert report.skipped == (f"{head}.weight", f"{head}.bias") and report.classes == 1000
    assert f"{head}.weight, {head}.bias left as initialised: the file's head is for 1000 classes" in str(report)
    for key, value in network.state_dict().items():
        wanted = before if key in report.skipped else source.state_dict()
        assert torch.equal(value, wanted[key]), key


def test_a_state_dict_beside_an_optimizers_is_found(tmp_path: Path) -> None:
    source, network = build(seed=1), build()
    load_pretrained(network, write(tmp_path / "w.pth", {"state_dict": source.state_dict(), "epoch": 3}))
    assert torch.equal(network.fc2.weight, source.fc2.weight)


def test_colour_weights_are_summed_for_grey_images(tmp_path: Path) -> None:
    source, network = build(seed=1).eval(), build(channels=1).eval()
    report = load_pretrained(network, write(tmp_path / "w.pth", source.state_dict()))
    assert report.summed == ("convs.0.weight",) and "convs.0.weight summed over colours" in str(report)
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(x), source(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


def test_files_without_batch_counts_fit(tmp_path: Path) -> None:
    source = {key: value for key, value in build("resnet20", seed=1).state_dict().items() if "num_batches" not in key}
    assert set(load_pretrained(build("resnet20"), write(tmp_path / "w.pth", source)).loaded) == set(source)


def without(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if key != "fc1.bias"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without, "w.pth has no 'fc1.bias'; it has 9 tensors"),
        (lambda w: {**w, "fc9.weight": torch.zeros(1)}, "the network has no 'fc9.weight'; 1 of 11 tensors are unknown"),
        (lambda w: {**w, "fc1.bias": torch.zeros(3)}, r"fc1.bias is \(3,\); the network's is \(512,\)"),
        (lambda w: {**w, "fc2.weight": torch.zeros(7, 9)}, r"fc2.weight is \(7, 9\); the network's is \(10, 512\)"),
        (lambda w: [1], "w.pth holds list; it must be a state_dict"),
        (lambda w: {"epoch": 3}, "w.pth holds dict; it must be a state_dict"),
        (lambda w: build(), "w.pth is not a file of plain tensors: "),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_changed(change: Any, says: str, tmp_path: Path) -> None:
    network = build()
    path = write(tmp_path / "w.pth", change(build(seed=1).state_dict()))
    with pytest.raises(ValueError, match=says):
        load_pretrained(network, path)
    torch.testing.assert_close(network.state_dict(), build().state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("w.pth", "is not a file of plain tensors"),
        ("w.safetensors", "is not a safetensors file"),
        ("absent.pth", "does not exist"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused(name: str, says: str, tmp_path: Path) -> None:
    if not name.startswith("absent"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=says):
        load_pretrained(build(), tmp_path / name)


@pytest.mark.parametrize(
    "name",
    in_acceptance(
        ("densenet121", "mnasnet0_5", "regnet_y_400mf"),
        ("googlenet", "mobilenet_v3_small", "densenet121", "mnasnet0_5", "regnet_y_400mf"),
    ),
)
def test_the_heads_of_torchvisions_published_files_are_left(name: str, tmp_path: Path) -> None:
    """Those files have 1,000 classes, and GoogLeNet's auxiliary classifiers, which are not used."""
    settings: dict[str, Any] = {"init_weights": False} if name == "googlenet" else {}
    theirs = torchvision.models.get_model(name, weights=None, **settings)
    network = build_network(f"torchvision:{name}", channels=3, height=64, width=64, classes=5)
    report = load_pretrained(network, write(tmp_path / "w.safetensors", theirs.state_dict()))
    assert (len(report.skipped), report.classes) == (2, 1000)
    assert (report.ignored > 0) == (name == "googlenet")
    assert len(report.loaded) + 2 == len(network.state_dict())
    assert all(torch.equal(theirs.state_dict()[key], network.state_dict()[key]) for key in report.loaded)
