"""Class activation maps without gradients: sums of a layer's channels, weighted by what they do to the score."""

import numpy as np

from export.engines.onnx_tail import Tail
from models.images.decode import Floats
from service.errors import UnknownLayer
from service.inspection.explain.contribution import contributions, set_channels
from service.inspection.explain.maps import resize
from service.inspection.explain.served import ServedImage
from service.inspection.layers import Layer

_CHECKS = 4  # random values on which a linear head must be the one that was measured


def weighted_sum(weights: Floats, maps: Floats) -> Floats:
    """(C,) weights and (C, h, w) maps to (h, w)."""
    return np.tensordot(weights, maps, axes=1).astype(np.float32)


def cam(served: ServedImage, layer: Layer, index: int) -> Floats:
    """The weights of the class in a head of global average pooling and one linear layer.

    They are measured: such a head answers a channel that is 1 everywhere with its weight more than it answers zeros.
    That the head has no other part is checked on random values.

    Raises:
        UnknownLayer: the network after the layer is something else.
    """
    tail = served.tail(layer.node)
    channels = tail.start.shape[layer.channel_axis]
    zeros = tail.run(np.zeros_like(tail.start))[1][0]  # (K,)
    weights = np.empty((channels, len(zeros)), np.float32)
    for part in served.watch.batches(channels, served.batch_of(tail.start.size)):
        ones = np.zeros((part.stop - part.start, *tail.start.shape[1:]), np.float32)
        set_channels(ones, layer.channel_axis, part, 1)
        weights[part] = tail.run(ones)[1] - zeros
    if not _is_linear(tail, layer, weights, zeros):
        raise UnknownLayer(
            f"CAM needs global average pooling and one linear layer after {layer.name}; {served.model.label} has "
            "something else there, so choose its last spatial layer if it has such a head, or another method"
        )
    return weighted_sum(weights[:, index], layer.to_maps(tail.start)[0])


def _is_linear(tail: Tail, layer: Layer, weights: Floats, zeros: Floats) -> bool:
    scale = max(float(np.abs(tail.start).max()), 1e-3)
    random = np.random.default_rng(0).normal(0, scale, (_CHECKS, *tail.start.shape[1:])).astype(np.float32)
    values = np.concatenate([random, tail.start])
    if layer.extra:
        return False  # the class token is not pooled
    wanted = layer.to_maps(values).mean(axis=(2, 3)) @ weights + zeros
    found = tail.run(values)[1]
    return bool(np.abs(found - wanted).max() <= 1e-3 * max(1e-3, float(np.abs(wanted - zeros).max())))


def ablation_cam(served: ServedImage, layer: Layer, index: int) -> Floats:
    """Each channel is weighted by its contribution, see `contributions`."""
    weights = contributions(served, layer.node, layer.channel_axis, index)
    return weighted_sum(weights, layer.to_maps(served.tail(layer.node).start)[0])


def score_cam(served: ServedImage, layer: Layer, index: int) -> Floats:
    """Each channel is a mask for the image, and is weighted by the softmax over channels of the logits."""
    maps = layer.to_maps(served.tail(layer.node).start)[0]  # (C, h, w)
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    masks = (maps - low) / np.maximum(high - low, 1e-8)
    scores = np.empty(len(maps), np.float32)
    for part in served.watch.batches(len(maps), served.batch_of(served.pixels.start.size)):
        scores[part] = served.pixels.run(served.masked(resize(masks[part], *served.size)))[1][:, index]
    weights = np.exp(scores - scores.max())
    return weighted_sum(weights / weights.sum(), maps)


def eigen_cam(served: ServedImage, layer: Layer, index: int) -> Floats:
    """The first principal component of the channels, which is the same for every class.

    Centred as in pytorch-grad-cam. A component's sign is arbitrary: the larger of its extremes is made positive
    (Chung and Ying, Seg-Eigen-CAM, 2025, eq. 13).
    """
    maps = layer.to_maps(served.tail(layer.node).start)[0]
    places = maps.reshape(len(maps), -1).T.astype(np.float64)  # (h * w, C)
    places -= places.mean(axis=0)
    left, sizes, _ = np.linalg.svd(places, full_matrices=False)
    component = left[:, 0] * sizes[0]
    component = -component if abs(component.min()) > abs(component.max()) else component
    return component.reshape(layer.grid).astype(np.float32)  # type: ignore[no-any-return]
