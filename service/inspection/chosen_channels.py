"""The channels of feature maps that somebody wants to see, ready to be returned or drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from export.predictor import Predictor
from models.graph.node import Node
from models.images.decode import Floats, Pixels
from models.images.input_spec import InputSpec
from service.errors import TooManyValues
from service.inspection.channels import Scale, Selection, ranges, to_bytes
from service.inspection.explain.contribution import contributions
from service.inspection.explain.served import ServedImage
from service.inspection.explain.watch import Watch
from service.inspection.feature_maps import FeatureMaps
from service.inspection.layers import channel_axis, grid_layer

MAX_CONTRIBUTIONS = 4096  # channels; each is a run of the network behind its layer


@dataclass(frozen=True)
class ChosenChannels:
    """Some channels of one layer.

    Attributes:
        node: the layer.
        axis: of its channels, for one image.
        whole: the layer's value, channels first.
        channels: indices of the chosen ones, in their order.
        low, high: of each chosen channel, what becomes black and white, or 0 and 255.
        contributions: of the chosen channels, if they were ranked by these.
        extra: tokens in front that have no place in the grid of tokens.
        grid: of tokens; None for other layers.
    """

    node: Node
    axis: int
    whole: Floats
    channels: npt.NDArray[np.int64]
    low: Floats
    high: Floats
    contributions: Floats | None
    extra: int
    grid: tuple[int, int] | None

    @property
    def values(self) -> Floats:
        """The chosen channels, with axes in the layer's order."""
        return np.moveaxis(self.whole[self.channels], 0, self.axis)

    def to_bytes(self) -> Pixels:
        """The same in a byte for each number."""
        return np.moveaxis(to_bytes(self.whole[self.channels], self.low, self.high), 0, self.axis)

    @property
    def maps(self) -> Floats:
        """The chosen channels first, and tokens in their grid, those without a place left out: for pictures."""
        chosen = self.whole[self.channels]
        return chosen if self.grid is None else chosen[:, self.extra :].reshape(len(chosen), *self.grid)


def choose_channels(
    maps: FeatureMaps, spec: InputSpec, selection: Selection, scale: Scale, ranked: Sequence[Floats] = ()
) -> list[ChosenChannels]:
    """Chooses channels of every layer.

    Args:
        maps: the layers.
        ranked: contributions of each layer's channels, if these decide.
    """
    axes = [channel_axis(node, spec) for node, _ in maps.layers]
    wholes = [np.moveaxis(value, axis, 0) for (_, value), axis in zip(maps.layers, axes, strict=True)]
    scores: Sequence[Any] = ranked or [None] * len(wholes)
    chosen = [selection.of(whole, one) for whole, one in zip(wholes, scores, strict=True)]
    limits = [
        (low[channels], high[channels]) for (low, high), channels in zip(ranges(wholes, scale), chosen, strict=True)
    ]
    found = []
    for (node, _), axis, whole, channels, (low, high), one in zip(
        maps.layers, axes, wholes, chosen, limits, scores, strict=True
    ):
        layer = grid_layer(node, spec)
        tokens = layer if layer and layer.layout == "tokens" else None
        found.append(
            ChosenChannels(
                node,
                axis,
                whole,
                channels,
                low,
                high,
                None if one is None else one[channels],
                tokens.extra if tokens else 0,
                tokens.grid if tokens else None,
            )
        )
    return found


def check_contributions(nodes: Sequence[Node], spec: InputSpec) -> None:
    """Refuses to rank the channels of layers by contribution if these are too many.

    Raises:
        TooManyValues: the message has their number and the limit.
    """
    count = sum(node.shape[channel_axis(node, spec)] for node in nodes)
    if count > MAX_CONTRIBUTIONS:
        raise TooManyValues(
            f"ranking by contribution runs the network once for each of {count} channels of {len(nodes)} layers; at "
            f"most {MAX_CONTRIBUTIONS}: choose some with ?layers="
        )


def layer_contributions(
    model: Predictor, image: Pixels, nodes: Sequence[Node], class_index: int | None, watch: Watch
) -> tuple[list[Floats], int]:
    """Contributions of every channel of layers to the logit of a class, the predicted one if None, and that class.

    Raises:
        UnknownLayer: the served file has no such value.
        Stopped: nobody waits for it any more.
    """
    served = ServedImage(model, image, watch)
    index = int(served.logits[0].argmax()) if class_index is None else class_index
    spec = model.manifest.input
    return [contributions(served, node, 1 + channel_axis(node, spec), index) for node in nodes], index
