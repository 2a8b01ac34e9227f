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
from service.inspection.layers import Layer, channel_axis, grid_layer

MAX_CONTRIBUTIONS = 4096  # channels; each is a run of the network behind its layer


@dataclass(frozen=True)
class ChosenChannels:
    """Some channels of one layer.

    Attributes:
        node: the layer.
        layer: its grid; None for a layer without one.
        whole: the layer's value, channels first.
        channels: indices of the chosen ones, in their order.
        low, high: of each chosen channel, what becomes black and white, or 0 and 255.
        contributions: of the chosen channels, if they were ranked by these.
    """

    node: Node
    layer: Layer | None
    whole: Floats
    channels: npt.NDArray[np.int64]
    low: Floats
    high: Floats
    contributions: Floats | None

    @property
    def axis(self) -> int:
        """The axis of the channels, for one image."""
        return self.layer.channel_axis - 1 if self.layer else 0

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
        return self.layer.to_maps(self.values[np.newaxis])[0] if self.layer else self.whole[self.channels]


def choose_channels(
    maps: FeatureMaps, spec: InputSpec, selection: Selection, scale: Scale, ranked: Sequence[Floats] = ()
) -> list[ChosenChannels]:
    """Chooses channels of every layer.

    Args:
        maps: the layers.
        ranked: contributions of each layer's channels, if these decide.
    """
    layers = [grid_layer(node, spec) for node, _ in maps.layers]
    wholes = [np.moveaxis(value, channel_axis(node, spec), 0) for node, value in maps.layers]
    scores: Sequence[Any] = ranked or [None] * len(wholes)
    found = []
    for (node, _), layer, whole, (low, high), score in zip(
        maps.layers, layers, wholes, ranges(wholes, scale), scores, strict=True
    ):
        channels = selection.of(whole, score)
        own = None if score is None else score[channels]
        found.append(ChosenChannels(node, layer, whole, channels, low[channels], high[channels], own))
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
