"""How values lie over the image: the axis of their channels, and the grid of their places or tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from models.graph.node import Node
from models.images.decode import Floats
from models.images.input_spec import InputSpec
from service.errors import NotInspectable, UnknownLayer

Layout = Literal["channels_first", "channels_last", "tokens"]
_CHANNELS: dict[Layout, int] = {"channels_first": 1, "channels_last": 3, "tokens": 2}  # axis of a batch


@dataclass(frozen=True)
class Layer:
    """A node whose values lie in a grid.

    Attributes:
        layout: of the values: (C, h, w), (h, w, C) as in Swin, or (tokens, C) as in ViT.
        grid: (h, w).
        extra: tokens in front that have no place, such as the class token.
    """

    node: Node
    layout: Layout
    grid: tuple[int, int]
    extra: int = 0

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    @property
    def channel_axis(self) -> int:
        """The channels' axis in a batch of values."""
        return _CHANNELS[self.layout]

    def to_maps(self, values: npt.NDArray[Any]) -> Floats:
        """A batch of values (N, ...) as maps (N, C, h, w)."""
        channels_first = np.moveaxis(
            values[:, self.extra :] if self.layout == "tokens" else values, self.channel_axis, 1
        )
        return np.ascontiguousarray(channels_first.reshape(*channels_first.shape[:2], *self.grid), np.float32)

    def position(self, place: int) -> tuple[int, int] | None:
        """(row, column) of a place, counted row by row with the extra tokens first; None for an extra token."""
        return divmod(place - self.extra, self.grid[1]) if place >= self.extra else None

    def without_places(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The same values with zero at every place of the grid; extra tokens stay."""
        changed = np.zeros_like(values)
        changed[:, : self.extra] = values[:, : self.extra]
        return changed


def channel_axis(node: Node, spec: InputSpec) -> int:
    """The axis of the channels in the value of one image: the first, unless its shape says otherwise."""
    layer = grid_layer(node, spec)
    return layer.channel_axis - 1 if layer else 0


def by_channel(values: npt.NDArray[Any], node: Node, spec: InputSpec) -> npt.NDArray[Any]:
    """A batch of values (N, ...) as (N, channels, places); a vector's elements are channels of one place."""
    channels_first = np.moveaxis(values, 1 + channel_axis(node, spec), 1)
    return channels_first.reshape(*channels_first.shape[:2], -1)


def find_layers(nodes: Sequence[Node], spec: InputSpec) -> list[Layer]:
    """The layers with more than one place, in the network's order."""
    found = [grid_layer(node, spec) for node in nodes]
    return [layer for layer in found if layer is not None]


def choose_layer(
    nodes: Sequence[Node], spec: InputSpec, name: str | None, *, matters: Callable[[Layer], bool], model: str
) -> Layer:
    """The layer of a name, or the last one.

    Args:
        matters: False for a layer whose places do not reach the logits, such as the patch tokens at the end of a ViT.
        model: for messages.

    Raises:
        UnknownLayer: it has no grid, or a single place; the message lists those that will do.
        NotInspectable: no name is given, and no layer will do.
    """
    layers = find_layers(nodes, spec)
    if name is None:
        for layer in reversed(layers):
            if layer.layout != "tokens" or matters(layer):  # a convolution's always do
                return layer
        raise NotInspectable(f"{model} has no layer with more than one place; its layers are {_shapes(nodes[-8:])}")
    for layer in layers:
        if layer.name == name:
            return layer
    raise UnknownLayer(f"{_reason(nodes, name, model)}; {_those_that_will(layers)}")


def _reason(nodes: Sequence[Node], name: str, model: str) -> str:
    node = next((node for node in nodes if node.name == name), None)
    if node is None:
        return f"{model} has no layer {name[:60]!r}"
    if len(node.shape) == 3:
        return f"{name} is {_shape(node)}: one place makes no map"
    return f"{name} is {_shape(node)}, which is no grid over the image"


def _those_that_will(layers: Sequence[Layer]) -> str:
    names = [layer.name for layer in layers]
    shown = names if len(names) <= 40 else [*names[:10], "...", *names[-30:]]
    return f"those that will do are {', '.join(shown)}" if names else "no layer of it will do"


def grid_layer(node: Node, spec: InputSpec) -> Layer | None:
    """The layer of a node whose values lie in a grid with more than one place; None for any other."""
    if len(node.shape) == 3:
        first, middle, last = node.shape
        channels_first = _fits(middle, last, spec) or not _fits(first, middle, spec)
        grid = (middle, last) if channels_first else (first, middle)
        if grid == (1, 1):
            return None
        return Layer(node, "channels_first" if channels_first else "channels_last", grid)
    if len(node.shape) == 2:
        for extra in (0, 1, 2, 5):  # none, the class, a distillation token too, four registers
            if grid_of := _token_grid(node.shape[0] - extra, spec):
                return Layer(node, "tokens", grid_of, extra)
    return None


def _token_grid(count: int, spec: InputSpec) -> tuple[int, int] | None:
    """The grid of so many square patches that cover the input; None if there is none."""
    for height in range(2, count // 2 + 1):
        width = count // height
        if height * width == count and spec.height * width == spec.width * height:
            return height, width
    return None


def _fits(height: int, width: int, spec: InputSpec) -> bool:
    """True for a grid with the input's aspect ratio, up to one row or column."""
    return abs(height * spec.width - width * spec.height) <= max(spec.width, spec.height)


def _shape(node: Node) -> str:
    return "x".join(map(str, node.shape))


def _shapes(nodes: Sequence[Node]) -> str:
    return ", ".join(f"{node.name} {_shape(node)}" for node in nodes)
