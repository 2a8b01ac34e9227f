"""Which file `--weights` means, and what is known of what it was trained on."""

from pathlib import Path

import pytest
import torch
import torchvision
from torchvision.transforms import functional as reference

from models.checkpoint.initial_weights import resolve_weights
from models.images.decode import preprocess_image, to_pil
from tests.conftest import make_checkpoint


def test_a_checkpoint_directory_brings_its_own_input(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path / "mine")
    found = resolve_weights(str(directory), model="lenet")
    assert found.path == directory / "model.safetensors"
    assert found.name == directory.name
    assert found.input is not None
    assert (found.input.mode, found.input.height) == ("L", 28)


def test_a_file_for_a_registered_network_says_nothing_of_its_input(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "w.pth")
    assert resolve_weights(str(tmp_path / "w.pth"), model="resnet18").input is None


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0", "vit_b_16", "inception_v3"])
def test_a_file_for_torchvisions_is_fed_as_torchvision_feeds_it(name: str, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "w.pth")
    spec = resolve_weights(str(tmp_path / "w.pth"), model=f"torchvision:{name}").input
    assert spec is not None
    pixels = torch.randint(256, (300, 400, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    ours = torch.tensor(preprocess_image(to_pil(pixels), spec)).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    theirs = preset(reference.to_pil_image(pixels))
    torch.testing.assert_close((ours - mean) / std, theirs, atol=1e-5, rtol=0)


def test_published_weights_come_from_torchs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub/checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    cached.parent.mkdir(parents=True)
    torch.save({"a": torch.zeros(1)}, cached)
    found = resolve_weights("DEFAULT", model="squeezenet1_1")
    assert (found.path, found.name) == (cached, "IMAGENET1K_V1")
    assert found.to_json().keys() == {"name", "sha256"}


@pytest.mark.parametrize(
    ("given", "model", "message"),
    [
        ("absent.pth", "lenet", "--weights absent.pth: no such file, and no checkpoint directory"),
        ("DEFAULT", "lenet", "--weights DEFAULT: no such file or checkpoint directory, and lenet has no published"),
        ("DEFAULT", "resnet50", "only torchvision's own have published weights: torchvision:resnet50"),
        ("IMAGENET", "vit_b_16", "torchvision's weights of this network are DEFAULT, IMAGENET1K_V1, IMAGENET1K_SWAG"),
        (".", "lenet", "no checkpoint directory"),
    ],
)
def test_weights_that_are_not_there(
    given: str, model: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        resolve_weights(given, model=model)


def test_fetching_that_fails_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(ValueError, match=r"fetching https://.*squeezenet1_1.* failed: .*give its path"):
        resolve_weights("DEFAULT", model="squeezenet1_1")
