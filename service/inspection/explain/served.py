"""The served network with one image: its scores for changed images, and for changed values of a layer."""

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from export.engines.onnx_graph import IMAGE
from export.engines.onnx_tail import LOGITS, Tail
from export.predictor import Predictor
from models.graph.node import Node
from models.images.decode import Floats, Pixels
from service.errors import NotInspectable, UnknownLayer
from service.inspection.explain.watch import Watch
from service.inspection.layers import Layer
from service.inspection.units import extractor_of

_BATCH, _BATCH_VALUES = 64, 2_400_000  # runs in one batch, and values that it may take: 15 images of 224x224 pixels


class ServedImage:
    """One image in `model.onnx`.

    Args:
        model: the artifact.
        image: uint8 (H, W, C) as the network takes it.
        watch: asked between batches.

    Raises:
        NotInspectable: the artifact has no ONNX file.
    """

    def __init__(self, model: Predictor, image: Pixels, watch: Watch) -> None:
        self.watch = watch
        self.model, self.image = model, image
        self._extractor = extractor_of(model)
        self._batch = image[np.newaxis]
        self.probabilities, (logits,) = self._extractor.run(self._batch, [LOGITS])
        self.logits = logits

    @property
    def file(self) -> str:
        """The file's name."""
        return self._extractor.file

    @cached_property
    def pixels(self) -> Tail:
        """The network from the normalised image on; from the uint8 pixels if the file does not normalise first."""
        return self._extractor.tail(self._batch, self._extractor.graph.input_value)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the network's input."""
        return self.image.shape[0], self.image.shape[1]

    @cached_property
    def _channels_last(self) -> bool:
        return self.pixels.start.shape[1:] == self.image.shape

    @property
    def place_axes(self) -> tuple[int, int]:
        """The axes of rows and columns in `pixels.start`."""
        return (1, 2) if self._channels_last else (2, 3)

    @cached_property
    def baseline(self) -> npt.NDArray[Any]:
        """An image of the training data's mean colour, like `pixels.start`: zero once it is normalised."""
        if self._extractor.graph.input_value != IMAGE:
            return np.zeros_like(self.pixels.start)
        mean = np.round(255 * np.array(self.model.manifest.input.mean)).astype(np.uint8)
        return np.broadcast_to(mean, self.pixels.start.shape)

    def masked(self, masks: Floats, *, over: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """The image under masks (N, H, W) from 0, where the baseline is seen, to 1.

        Args:
            over: what is seen instead of the baseline.
        """
        over = self.baseline if over is None else over
        masks = masks[..., np.newaxis] if self._channels_last else masks[:, np.newaxis]
        start = self.pixels.start
        if start.dtype == np.uint8:
            return np.asarray(np.rint(over + (start.astype(np.float32) - over) * masks), np.uint8)
        changed: npt.NDArray[Any] = over + (start - over) * masks
        return changed

    def batch_of(self, values: int) -> int:
        """Runs in one batch, each of which takes so many values."""
        return max(1, min(_BATCH, _BATCH_VALUES // max(1, values)))

    def tail(self, node: Node) -> Tail:
        """The network from a layer on.

        Raises:
            UnknownLayer: the file has no such value.
        """
        if not node.value:
            raise UnknownLayer(f"{node.name} is not a value of {self.file}; choose another layer")
        tail = self._extractor.tail(self._batch, node.value)
        if tail.start.shape[1:] != node.shape:
            raise UnknownLayer(f"{node.name} is {tail.start.shape[1:]} in {self.file}, not {node.shape}")
        return tail

    def matters(self, layer: Layer) -> bool:
        """True if the logits depend on the places of a layer."""
        tail = self.tail(layer.node)
        changed = tail.run(np.concatenate([tail.start, layer.without_places(tail.start)]))[1]
        return bool(np.abs(changed[0] - changed[1]).max() > 1e-6)

    def check_difference(self, logits: Floats, other: str) -> None:
        """Compares logits (1, K) of another implementation with the file's.

        Raises:
            NotInspectable: they differ by more than rounding.
        """
        difference = float(np.abs(logits - self.logits).max())
        if not difference <= 1e-3 * max(1.0, float(np.abs(self.logits).max())):
            raise NotInspectable(
                f"the logits of {other} differ from those of {self.file} by {difference:.3g} on this image; "
                "its gradients would explain another network"
            )
