"""Rows of the node table: properties of each value inside a network. The server reads them without torch."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from models.errors import UserError
from models.graph.receptive_field import Box, Pair, ReceptiveField, union


@dataclass(frozen=True, kw_only=True)
class Node:
    """A value that a network computes between image and logits.

    Attributes:
        name: torchvision's `get_graph_node_names` name, for example `layer1.0.conv1` or `relu_1`.
        op: the layer's class (`Conv2d`) or the function's name (`relu`, `add`).
        parents: names of the nodes it is computed from; `input` is the normalised image.
        shape: for one image, without the batch: (channels, height, width) for feature maps.
        value: its name in the exported ONNX graph; empty before export.
        kernel, stride, padding, dilation: (vertical, horizontal), for convolutions and pools only; padding is the
            amount above and to the left.
        parameters: number of trainable parameters of this layer, counted at its first use.
        macs: multiply-accumulate operations for one image.
        receptive_field: (height, width) in input pixels that can influence one position; None if it is the whole
            image or unknown.
        jump: (vertical, horizontal) distance in input pixels between neighbouring positions; None likewise.
        start: (row, column) of the input pixel where the receptive field of position (0, 0) begins, negative if it
            reaches into the padding; None likewise.
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
    start: Pair | None = None

    def box(self, row: int, column: int) -> Box | None:
        """Pixels of the input that can influence one position, padding included; None where it is the whole image or
        unknown."""
        if self.receptive_field is None or self.jump is None or self.start is None:
            return None
        return ReceptiveField(self.receptive_field, self.jump, self.start).box(row, column)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Node":
        """Reads a node serialised by `dataclasses.asdict` and JSON.

        Raises:
            ValueError: a key is missing or unknown.
        """
        row: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        try:
            return cls(**row)
        except TypeError as error:
            raise UserError(f"node table: {error}; known keys are {', '.join(f.name for f in fields(cls))}") from None


def nodes_from_json(content: Sequence[dict[str, Any]]) -> tuple[Node, ...]:
    """Reads a node table. For older tables without `start` it is computed from the other columns.

    Raises:
        ValueError: a key is missing or unknown.
    """
    known = {"input": ReceptiveField()}
    rows: dict[str, Node] = {}
    for row in map(Node.from_json, content):
        if row.receptive_field and row.jump:
            start = row.start or _derived_start(row, union([known.get(name) for name in row.parents]), rows)
            if start:
                known[row.name] = ReceptiveField(row.receptive_field, row.jump, start)
            row = replace(row, start=start)
        rows[row.name] = row
    return tuple(rows.values())


def _derived_start(row: Node, before: ReceptiveField | None, rows: dict[str, Node]) -> Pair | None:
    """Computes a row's start from its parents'; None if its window is not in the table."""
    if before is None:
        return None
    if row.op == "pad" and not (row.parents[0] in rows and rows[row.parents[0]].shape[1:] == row.shape[1:]):
        return None  # the table lacks its padding, unless it pads channels alone
    window = {key: getattr(row, key) for key in ("kernel", "stride", "padding", "dilation")}
    after = before.through_window(window) if row.kernel else before
    evenly_pooled = row.op.lower().startswith("adaptive")  # by adjacent windows without padding
    return after.start if evenly_pooled or after.size == row.receptive_field else None
