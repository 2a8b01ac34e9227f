"""The identity embedded in every exported file, so that one copied out of its artifact can still be used correctly."""

import json
from dataclasses import asdict, dataclass

from models.checkpoint.directory import CheckpointConfig

KEY = "convscope"  # of ONNX's metadata_props; in TorchScript archives the extra file convscope.json


@dataclass(frozen=True, kw_only=True)
class FileIdentity:
    """The artifact that a file belongs to.

    Attributes:
        name, version: the artifact's.
        weights_sha256: SHA-256 of its `weights.safetensors` or `original.onnx`.
    """

    name: str = ""
    version: int = 0
    weights_sha256: str = ""


def describe(config: CheckpointConfig, identity: FileIdentity | None) -> str:
    """JSON: the identity, the network's name, class names by index, temperature, input and preprocessing."""
    facts = {"model": config.model, "classes": config.classes, "temperature": config.temperature}
    return json.dumps({**asdict(identity or FileIdentity()), **facts, **config.input.to_json()})
