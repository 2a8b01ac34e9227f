"""What each channel of a layer contributes to the score of a class."""

import numpy as np
import numpy.typing as npt

from models.graph.node import Node
from models.images.decode import Floats
from service.inspection.explain.served import ServedImage


def contributions(served: ServedImage, node: Node, axis: int, index: int) -> Floats:
    """How far the logit of a class falls when a channel is zero, (C,) for each channel alone.

    These are the weights of Ablation-CAM. Desai and Ramaswamy (2020) divide by the logit, which scales them, and
    inverts them where the logit is negative; here that is left out.

    Args:
        node: the layer.
        axis: of its channels in a batch of values.
        index: of the class.

    Raises:
        UnknownLayer: the served file has no such value.
        Stopped: nobody waits for it any more.
    """
    tail = served.tail(node)
    logit = tail.run(tail.start)[1][0, index]
    found = np.empty(tail.start.shape[axis], np.float32)
    for part in served.watch.batches(len(found), served.batch_of(tail.start.size)):
        values = np.repeat(tail.start, part.stop - part.start, axis=0)
        set_channels(values, axis, part, 0)
        found[part] = logit - tail.run(values)[1][:, index]
    return found


def set_channels(values: npt.NDArray[np.float32], axis: int, part: slice, number: float) -> None:
    """Sets one channel of each value in a batch: those of `part`, one after the other."""
    channels = np.arange(part.start, part.stop)
    np.moveaxis(values, axis, 1)[np.arange(len(values)), channels] = number
