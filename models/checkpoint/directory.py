"""The checkpoint directory: config.json and model.safetensors, written by training and read by all later steps."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from models.checkpoint.names import CONFIG_FILE, WEIGHTS_FILE, CheckpointError, check_finished
from models.checkpoint.weights import load_tensors
from models.errors import UserError
from models.files import atomic_write, sha256_of
from models.images.input_spec import InputSpec
from models.networks.registry import build_network

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """The content of config.json: how to rebuild the network, and the origin of its weights.

    Attributes:
        model: name in the registry.
        options: the network's own keyword arguments.
        recipe: every setting of the training run.
        metrics: by split, for example `{"test": {"accuracy": 0.99}}`; accuracies in [0, 1], losses in nats.
        dataset: name, counts by split and SHA-256 of the images and labels.
        temperature: divisor of the logits before the softmax.
        weights: name and SHA-256 of the initial weights' file; empty if training began with random weights.
        revision: git commit of the code, or None outside a repository.
        versions: of the libraries used.
    """

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...]
    input: InputSpec
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    weights: dict[str, Any] = field(default_factory=dict)
    revision: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    def build_network(self) -> nn.Module:
        """The network with fresh weights."""
        return build_network(
            self.model,
            channels=self.input.channels,
            height=self.input.height,
            width=self.input.width,
            classes=len(self.classes),
            **self.options,
        )

    def to_json(self) -> dict[str, Any]:
        """The content of config.json, without the weights' hash."""
        return {"schema": SCHEMA, **asdict(self), **self.input.to_json()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "CheckpointConfig":
        """Parses the result of `to_json`.

        Raises:
            ValueError: another schema, or keys that are missing or unknown.
        """
        fields = dict(content)
        if (schema := fields.pop("schema", None)) != SCHEMA:
            raise UserError(f"schema is {schema!r}; this version reads {SCHEMA}")
        try:
            fields["input"] = InputSpec.from_json({key: fields.pop(key) for key in ("input", "preprocess")})
            return cls(**{**fields, "classes": tuple(fields["classes"])})
        except KeyError as error:
            raise UserError(f"the key {error} is missing") from None
        except TypeError as error:
            raise UserError(str(error)) from None


@dataclass(frozen=True)
class Checkpoint:
    """A trained network in evaluation mode on the CPU, and its configuration."""

    config: CheckpointConfig
    network: nn.Module


def save_checkpoint(directory: Path, config: CheckpointConfig, weights: dict[str, torch.Tensor]) -> None:
    """Writes weights first and config.json, which holds their hash, last: a directory with a config is complete."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    (directory / CONFIG_FILE).unlink(missing_ok=True)
    with atomic_write(directory / WEIGHTS_FILE) as path:
        save_file(tensors, path)
    content = {**config.to_json(), "weights_sha256": sha256_of(directory / WEIGHTS_FILE)}
    with atomic_write(directory / CONFIG_FILE) as path:
        path.write_text(json.dumps(content, indent=2) + "\n")


def load_checkpoint(directory: Path) -> Checkpoint:
    """Reads a checkpoint and checks its hash.

    Raises:
        CheckpointError: the message names the file and its fault.
    """
    config, expected = _read(directory)
    weights_path = directory / WEIGHTS_FILE
    try:
        network = config.build_network()
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{directory / CONFIG_FILE}: {error}") from None
    if not weights_path.is_file():
        raise CheckpointError(f"{weights_path} does not exist")
    if (found := sha256_of(weights_path)) != expected:
        raise CheckpointError(f"{weights_path}: sha256 is {found[:12]}..., config.json says {expected[:12]}...")
    load_weights(network, weights_path)
    return Checkpoint(config, network.eval())


def load_weights(network: nn.Module, path: Path) -> None:
    """Loads a safetensors file into a network of the same shape.

    Raises:
        CheckpointError: not a safetensors file, or its tensors do not fit.
    """
    try:
        load_tensors(network, load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path}: {str(error).splitlines()[0]}") from None


def read_config(directory: Path) -> CheckpointConfig:
    """The configuration alone.

    Raises:
        CheckpointError: it is missing, damaged or of another schema.
    """
    return _read(directory)[0]


def _read(directory: Path) -> tuple[CheckpointConfig, str]:
    """The configuration and the hash of the weights."""
    config_path = directory / CONFIG_FILE
    check_finished(directory)
    try:
        content = json.loads(config_path.read_text())
        expected = content.pop("weights_sha256")
        return CheckpointConfig.from_json(content), str(expected)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{config_path}: {error}") from None
