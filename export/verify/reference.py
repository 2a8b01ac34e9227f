"""The reference for the files of an artifact: the trained network, rebuilt from the manifest and
`weights.safetensors`, or the imported third-party file."""

from pathlib import Path

import numpy as np
import torch

from export.artifact.manifest import ORIGINAL_FILE, WEIGHTS_FILE, Manifest
from export.engines.original import MODEL, Conventions, ImportedModel
from export.engines.protocol import Run
from export.writers.deployable import Deployable
from models.checkpoint.directory import Checkpoint, CheckpointConfig, load_weights
from models.images.decode import Floats, Pixels

REFERENCE = "PyTorch"  # its name beside the files in tables


def reference(checkpoint: Checkpoint) -> Run:
    """The trained network itself, in float32 on the CPU, as a reference for files."""
    deployable = Deployable(checkpoint)

    def run(images: Pixels) -> tuple[Floats, Floats]:
        with torch.inference_mode():
            probabilities, logits = deployable(torch.from_numpy(np.array(images)))
        return probabilities.numpy(), logits.numpy()

    return run


def reference_for(directory: Path, manifest: Manifest) -> Run:
    """The reference for an artifact, on the CPU.

    Raises:
        ValueError, EngineError: it cannot be rebuilt or opened.
    """
    if manifest.model != MODEL:
        return reference(rebuild(directory, manifest))
    content = (directory / ORIGINAL_FILE).read_bytes()
    return ImportedModel(content, manifest.input, Conventions.from_options(manifest.options)).run


def rebuild(directory: Path, manifest: Manifest) -> Checkpoint:
    """The checkpoint that was exported, in evaluation mode on the CPU.

    Raises:
        ValueError: the network is no longer in the registry.
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
