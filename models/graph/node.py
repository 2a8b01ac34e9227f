"""One row of the node table: what is known of one value inside a network. No torch, for the server reads it too."""

from dataclasses import dataclass, fields
from typing import Any

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Node:
    """A value that a network computes on its way from image to logits.

    Attributes:
        name: torchvision's `get_graph_node_names` name, for example `layer1.0.conv1` or `relu_1`.
        op: the layer's class (`Conv2d`) or the function's name (`relu`, `add`).
        parents: names of the nodes it is computed from; `input` is the normalised image.
        shape: of one image's value, without the batch: (channels, height, width) for feature maps.
        value: the name of the same value in the exported ONNX graph; empty before export.
        kernel, stride, padding, dilation: (vertical, horizontal), for convolutions and pools only.
        parameters: trainable numbers of this layer, counted where it is used first.
        macs: multiply-accumulate operations for one image.
        receptive_field: (height, width) in input pixels that can influence one position; None where it is all of them
            or cannot be told. Araujo, Norris and Sim, Computing Receptive Fields of CNNs (Distill 2019), eq. 2.
        jump: (vertical, horizontal) distance in input pixels between neighbouring positions; None likewise.
    """

    name: str
    op: str
    parents: tuple[str, ...]
    shape: tuple[int, ...]
    value: str = ""
    kernel: Pair | None = None
    stride: Pair | None = None
    padding: Pair | None = None
    dilation: Pair | None = None
    parameters: int = 0
    macs: int = 0
    receptive_field: Pair | None = None
    jump: Pair | None = None

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Node":
        """Reads what `dataclasses.asdict` and JSON made of a node.

        Raises:
            ValueError: a key is missing or unknown.
        """
        row: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        try:
            return cls(**row)
        except TypeError as error:
            raise ValueError(f"node table: {error}; known keys are {', '.join(f.name for f in fields(cls))}") from None
