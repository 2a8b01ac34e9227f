"""Checkpoints come back equal, are never half there, and what is wrong with one is said by file."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from models.checkpoint.directory import CheckpointConfig, load_checkpoint, load_weights, save_checkpoint
from models.checkpoint.names import CheckpointError
from models.checkpoint.samples import VerificationImages, load_samples, save_samples
from models.files import atomic_write, sha256_of
from tests.conftest import digit_images, make_checkpoint, make_spec

CONFIG = CheckpointConfig(
    model="lenet",
    options={"hidden": [84]},
    classes=("a", "b", "c"),
    input=make_spec(32, 3),
    recipe={"epochs": 3},
    metrics={"test": {"accuracy": 0.75}},
    dataset={"name": "x", "counts": {"train": 3}},
    temperature=1.25,
    revision="abc",
    versions={"torch": "2"},
)


def damage(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


def rewrite(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "run", CONFIG, CONFIG.build_network().state_dict())
    return tmp_path / "run"


def test_what_is_saved_comes_back_equal(tmp_path: Path) -> None:
    weights = CONFIG.build_network().state_dict()
    save_checkpoint(tmp_path / "deep" / "run", CONFIG, weights)
    loaded = load_checkpoint(tmp_path / "deep" / "run")
    assert loaded.config == CONFIG
    assert not loaded.network.training
    torch.testing.assert_close(loaded.network.state_dict(), weights, rtol=0, atol=0)
    assert sorted(os.listdir(tmp_path / "deep" / "run")) == ["config.json", "model.safetensors"]


def test_weights_are_plain_safetensors_and_their_hash_is_in_the_config(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    assert weights["conv1.weight"].shape == (6, 3, 5, 5)
    content = json.loads((saved / "config.json").read_text())
    assert content["weights_sha256"] == sha256_of(saved / "model.safetensors")
    assert content["schema"] == 1
    assert content["input"] == {"mode": "RGB", "height": 32, "width": 32}
    assert set(content["preprocess"]) >= {"resize", "crop", "interpolation", "antialias", "mean", "std"}


def test_the_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-4, the first example
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_flipped_byte_in_the_weights_is_noticed(saved: Path, place: float) -> None:
    damage(saved / "model.safetensors", place)
    with pytest.raises(CheckpointError, match=r"model.safetensors: sha256 is \w{12}\.\.\., config.json says \w{12}"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schema": 2}, "config.json: schema is 2; this version reads 1"),
        ({"schema": None}, "schema is None"),
        ({"colour": 1}, "config.json: .*unexpected keyword argument 'colour'"),
        ({"model": "alexnot"}, "config.json: no network is called 'alexnot'; did you mean alexnet"),
        ({"options": {"depth": 3}}, "lenet has no option 'depth'"),
        ({"options": {"hidden": 3}}, "config.json: "),
        ({"input": {"mode": "RGB", "height": 32}}, "config.json: input specification: .*'width'"),
        ({"classes": ["a"]}, "classes is 1"),
        ({"classes": ["a", "b"]}, "model.safetensors: Error.s. in loading state_dict for LeNet"),
    ],
)
def test_a_config_that_cannot_be_read_is_refused(saved: Path, changes: dict[str, Any], says: str) -> None:
    rewrite(saved, **changes)
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint(saved)


@pytest.mark.parametrize("key", ["schema", "model", "classes", "input", "preprocess", "weights_sha256"])
def test_a_missing_key_is_named(saved: Path, key: str) -> None:
    content = json.loads((saved / "config.json").read_text())
    del content[key]
    (saved / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"config.json: .*{key}"):
        load_checkpoint(saved)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"null"])
def test_a_config_that_is_no_json_object_is_refused(saved: Path, content: bytes) -> None:
    (saved / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config.json: "):
        load_checkpoint(saved)


def test_a_missing_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config.json does not exist: no checkpoint there"):
        load_checkpoint(tmp_path)


def test_an_unfinished_run_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "resume.pt").touch()
    with pytest.raises(CheckpointError, match=r"config.json does not exist: .*not finished; continue it with --resume"):
        load_checkpoint(tmp_path)


def test_missing_weights_are_named(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors does not exist"):
        load_checkpoint(saved)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"not tensors")
    with pytest.raises(CheckpointError, match=r"w\.safetensors: "):
        load_weights(CONFIG.build_network(), tmp_path / "w.safetensors")


@pytest.mark.parametrize("fails_at", [1, 2])
def test_an_interrupted_save_leaves_no_checkpoint(saved: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    calls = 0
    original = Path.replace

    def replace(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise OSError("disk full")
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(saved, CONFIG, CONFIG.build_network().state_dict())
    assert os.listdir(saved) == ["model.safetensors"]  # whole, old or new; without a config it is no checkpoint
    load_file(saved / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"config.json does not exist"):
        load_checkpoint(saved)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_file_is_whole_or_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error, match="stop"), atomic_write(path) as temporary:
        temporary.write_text("ne")
        assert temporary.parent == tmp_path
        raise error("stop")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_come_back_equal(tmp_path: Path, channels: int) -> None:
    raw = (*digit_images(channels, 11), np.zeros((5, 9, 3), np.uint8))  # more than ten: order is by number, not by text
    samples = VerificationImages(
        np.stack(raw[:11]).reshape(11, 8, 8, channels), np.arange(11), raw, np.arange(12) + 100
    )
    save_samples(tmp_path / "samples.npz", samples)
    loaded = load_samples(tmp_path / "samples.npz")
    np.testing.assert_array_equal(loaded.images, samples.images)
    np.testing.assert_array_equal(loaded.labels, samples.labels)
    np.testing.assert_array_equal(loaded.raw_labels, samples.raw_labels)
    assert all(np.array_equal(a, b) for a, b in zip(loaded.raw, raw, strict=True))
    assert os.listdir(tmp_path) == ["samples.npz"]


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "run", count=8) / "samples.npz"
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:-30], whole[:200] + b"\0" * 300 + whole[500:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"samples\.npz holds no sample images: "):
            load_samples(path)
    path.unlink()
    with pytest.raises(ValueError, match=r"samples\.npz holds no sample images: .*No such file"):
        load_samples(path)
    np.savez(path, images=np.array([object()], dtype=object))
    with pytest.raises(ValueError, match=r"holds no sample images: .*allow_pickle"):
        load_samples(path)


def test_the_shared_random_checkpoints_differ_by_seed_only(tmp_path: Path) -> None:
    first, again, other = (
        load_checkpoint(make_checkpoint(tmp_path / name, model="resnet20", size=8, seed=seed, count=8)).network
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    torch.testing.assert_close(first.state_dict(), again.state_dict(), rtol=0, atol=0)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)
    assert not torch.equal(first.bn1.running_mean, torch.zeros(16))


def test_a_network_that_asks_for_the_version_of_its_weights(tmp_path: Path) -> None:
    """torchvision's MNASNet does, and files have none."""
    config = replace(CONFIG, model="mnasnet0_5", options={})
    network = config.build_network()
    save_checkpoint(tmp_path, config, network.state_dict())
    again = load_checkpoint(tmp_path).network.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in network.state_dict().items())
