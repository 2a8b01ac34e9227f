"""Initial weights of a network: a file, a checkpoint, or torchvision's published ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision

from models.checkpoint.directory import read_config
from models.checkpoint.names import CONFIG_FILE, WEIGHTS_FILE
from models.errors import UserError
from models.files import sha256_of
from models.images.input_spec import InputSpec
from models.networks.names import TORCHVISION_PREFIX, torchvision_names
from models.proxies import describe_proxy

TENSOR_FILES = (".pth", ".pt", ".bin", ".safetensors")


@dataclass(frozen=True)
class InitialWeights:
    """A file of weights.

    Attributes:
        path: a .pth, .pt or .safetensors file.
        name: the caller's name for it, without folders, for config.json.
        input: the specification they were trained with, if known.
        classes: the classes they were trained on, if known.
    """

    path: Path
    name: str
    input: InputSpec | None = None
    classes: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """The entry in config.json."""
        return {"name": self.name, "sha256": sha256_of(self.path)}


def resolve_weights(given: str, *, model: str) -> InitialWeights:
    """Resolves `given` to the weights for the network `model`.

    Args:
        given: a file of tensors by name; a checkpoint directory; or, for a torchvision network, the name of its
            published weights (`DEFAULT`, `IMAGENET1K_V1`), which are fetched unless torch's cache has them.

    Raises:
        ValueError: there are no such weights, or they cannot be fetched.
    """
    path = Path(given)
    if (path / CONFIG_FILE).is_file():
        return _of_checkpoint(path)
    published = _published(model)
    if not path.exists() and path.suffix not in TENSOR_FILES and path.name == given:
        if published is None:
            raise UserError(f"--weights {given}: no such file or checkpoint directory, and {_explain_missing(model)}")
        if given not in published.__members__:
            names = ", ".join(["DEFAULT", *(member.name for member in published)])
            raise UserError(f"--weights {given}: no such file, and torchvision's weights of this network are {names}")
        weights = published[given]
        return InitialWeights(_download(weights), weights.name, _input_of(weights))
    if not path.is_file():
        raise UserError(f"--weights {given}: no such file, and no checkpoint directory (one with {CONFIG_FILE})")
    return InitialWeights(path, path.name, None if published is None else _input_of(published["DEFAULT"]))


def _of_checkpoint(directory: Path) -> InitialWeights:
    config = read_config(directory)
    return InitialWeights(directory / WEIGHTS_FILE, directory.resolve().name, config.input, config.classes)


def _published(model: str) -> Any:
    """The enumeration of torchvision's published weights; None for a network that is not torchvision's."""
    from models.networks.registry import NETWORKS

    plain = model.removeprefix(TORCHVISION_PREFIX)
    if model in NETWORKS or plain not in torchvision_names():
        return None
    return torchvision.models.get_model_weights(plain)


def _explain_missing(model: str) -> str:
    if model in torchvision_names():
        return f"only torchvision's own have published weights: {TORCHVISION_PREFIX}{model}"
    return f"{model} has no published weights"


def _download(weights: Any) -> Path:
    """The file in torch's cache (TORCH_HOME); if absent, it is fetched and its hash checked."""
    try:
        torch.hub.load_state_dict_from_url(
            weights.url, map_location="cpu", check_hash=True, weights_only=True, progress=False
        )
    except Exception as error:  # network or disk errors, or a damaged file: no weights in any case
        raise UserError(
            f"--weights {weights.name}: fetching {weights.url} failed: {str(error).splitlines()[0]}"
            f"{describe_proxy(weights.url)}; with the file at hand, give its path"
        ) from None
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name


def _input_of(weights: Any) -> InputSpec:
    """The input specification that torchvision evaluates its published weights with."""
    how = weights.transforms()
    height = width = how.crop_size[0]
    return InputSpec(
        mode="RGB",
        height=height,
        width=width,
        resize=how.resize_size[0],
        crop=(height, width),
        interpolation=how.interpolation.value,
        background=(0, 0, 0),
        mean=tuple(how.mean),
        std=tuple(how.std),
    )
