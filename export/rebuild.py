"""The trained network of an artifact, rebuilt from its manifest and `weights.safetensors`."""

from pathlib import Path

from export.artifact import WEIGHTS_FILE, Manifest
from models.checkpoint import Checkpoint, CheckpointConfig, load_weights


def rebuild(directory: Path, manifest: Manifest) -> Checkpoint:
    """The checkpoint that was exported, in evaluation mode on the CPU.

    Raises:
        ValueError: the network is not in the registry any more.
        CheckpointError: the weights do not fit it.
    """
    config = CheckpointConfig(
        model=manifest.model,
        options=manifest.options,
        classes=manifest.classes,
        input=manifest.input,
        metrics=manifest.metrics,
        dataset=manifest.dataset,
        temperature=manifest.temperature,
    )
    network = config.build_network()
    load_weights(network, directory / WEIGHTS_FILE)
    return Checkpoint(config, network.eval())
