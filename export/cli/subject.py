"""The node table of a network by name, a checkpoint or an artifact, for `convscope summary`."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from export.artifact.directory import locate, newest_version
from export.artifact.manifest import read_manifest
from models.checkpoint.directory import load_checkpoint
from models.checkpoint.names import CONFIG_FILE
from models.graph.node import Node
from models.graph.node_table import node_table
from models.images.input_spec import InputSpec
from models.networks.registry import NETWORKS, build_network, find_network


@dataclass(frozen=True)
class Summary:
    """A node table with its heading; `caption` has the totals."""

    title: str
    nodes: tuple[Node, ...]

    @property
    def caption(self) -> str:
        """Totals over all nodes."""
        parameters, macs = sum(node.parameters for node in self.nodes), sum(node.macs for node in self.nodes)
        return f"{parameters:,} parameters, {macs:,} multiply-accumulates an image"


def summarize(subject: str, *, size: int | None, channels: int | None, classes: int) -> Summary:
    """Summarises a checkpoint, an artifact or a network by name; only the last uses size, channels and classes.

    Raises:
        ValueError: `subject` is none of the three, or cannot be read.
    """
    path = locate(Path(subject))
    if (path / CONFIG_FILE).is_file():
        checkpoint = load_checkpoint(path)
        spec = checkpoint.config.input
        title = f"{subject}: {checkpoint.config.model} for {spec.height}x{spec.width} {spec.mode}"
        return Summary(title, node_table(checkpoint.network, spec))
    if path.is_dir():
        manifest = read_manifest(newest_version(path))
        spec = manifest.input
        title = f"{manifest.name}:{manifest.version}: {manifest.model} for {spec.height}x{spec.width} {spec.mode}"
        return Summary(title, manifest.nodes)
    side = size or find_network(subject).sizes[0]
    count = channels or (1 if side <= 28 else 3)
    with torch.device("meta") if subject in NETWORKS else nullcontext():  # our networks can be measured without weights
        network = build_network(subject, channels=count, height=side, width=side, classes=classes)
    spec = _plain_spec(side, count)
    return Summary(f"{subject} for {side}x{side} {spec.mode}, {classes} classes", node_table(network, spec))


def _plain_spec(side: int, channels: int) -> InputSpec:
    return InputSpec(
        mode="L" if channels == 1 else "RGB",
        height=side,
        width=side,
        resize=(side, side),
        background=(0,) * channels,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )
