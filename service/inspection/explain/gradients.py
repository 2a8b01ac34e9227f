"""Maps from gradients of the logit, on the network rebuilt from the manifest and `weights.safetensors`.

Nothing is hooked: the traced network returns the values of any of its nodes, so that a ReLU that is called twice is
two nodes, and nothing is left behind.
"""

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from export.artifact.manifest import WEIGHTS_FILE, ArtifactError, check_file, read_manifest
from export.predictor import Predictor
from models.errors import ConvscopeError
from models.images.decode import Floats, Pixels
from service.errors import NotInspectable, UnknownLayer
from service.inspection.explain.cam import weighted_sum
from service.inspection.explain.watch import Watch
from service.inspection.layers import Layer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.graph.trace import Trace

NOISE = 0.15  # standard deviation, by the range of the normalised image
_BATCH, _BATCH_VALUES = 32, 1_200_000


def unavailable_reason(model: Predictor) -> str | None:
    """None if gradients can be had; otherwise a description of what is missing."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed here"
    if WEIGHTS_FILE not in model.manifest.files:
        return f"{model.label} has no {WEIGHTS_FILE} to rebuild the network from"
    return None


class TorchImage:
    """One image in the rebuilt network.

    Attributes:
        logits: (1, K).

    Raises:
        NotInspectable: torch or the weights are missing, or the network cannot be rebuilt.
    """

    def __init__(self, model: Predictor, image: Pixels, watch: Watch) -> None:
        if reason := unavailable_reason(model):
            raise NotInspectable(f"gradients are not to be had: {reason}; methods without them are")
        import torch

        from models.images.normalize import Normalize

        self.watch, self._label = watch, model.label
        if model.threads:
            torch.set_num_threads(model.threads)  # torch has one pool for the whole process
        try:
            self._network, self._trace = _rebuilt(model.directory, model.manifest.files[WEIGHTS_FILE].sha256)
        except ConvscopeError as error:
            raise NotInspectable(f"{model.label} cannot be rebuilt for gradients: {error}") from None
        with torch.no_grad():
            self._x = Normalize(model.manifest.input)(torch.from_numpy(image[np.newaxis].copy()))  # (1, C, H, W)
            self.logits: Floats = self._network(self._x).numpy()

    def layer(self, layer: Layer, index: int) -> tuple[Floats, Floats]:
        """A layer's maps and the logit's gradients by them, (C, h, w) each."""
        import torch

        for _ in self.watch.batches(1, 1):
            with torch.enable_grad():
                value, logits = self._returning(layer)(self._x.clone().requires_grad_())
                (gradient,) = torch.autograd.grad(logits[:, index].sum(), value, materialize_grads=True)
        maps, gradients = layer.to_maps(value.detach().numpy()), layer.to_maps(gradient.numpy())
        return maps[0], gradients[0]

    def matters(self, layer: Layer) -> bool:
        """True if any logit depends on the places of a layer."""
        import torch

        with torch.enable_grad():
            value, logits = self._returning(layer)(self._x.clone().requires_grad_())
            (gradient,) = torch.autograd.grad(logits.square().sum(), value, materialize_grads=True)
        return bool(np.abs(layer.to_maps(gradient.numpy())).max() > 0)

    @property
    def x(self) -> Floats:
        """The normalised image, (1, C, H, W)."""
        return self._x.numpy()  # type: ignore[no-any-return]

    def mean_gradient(self, images: Callable[[slice], Floats], count: int, index: int, weights: Floats) -> Floats:
        """The weighted sum of the logit's gradients by the pixels, (C, H, W).

        Args:
            images: normalised images (n, C, H, W) of a slice.
            count: of all images.
            weights: (count,).
        """
        import torch

        total = np.zeros(self.x.shape[1:])
        for part in self.watch.batches(count, max(1, min(_BATCH, _BATCH_VALUES // self.x.size))):
            with torch.enable_grad():
                x = torch.from_numpy(images(part)).requires_grad_()
                (gradients,) = torch.autograd.grad(self._network(x)[:, index].sum(), x, materialize_grads=True)
            total += np.tensordot(weights[part].astype(np.float64), gradients.numpy(), axes=1)
        return total.astype(np.float32)

    def _returning(self, layer: Layer) -> "Callable[[Tensor], tuple[Tensor, Tensor]]":
        if self._trace is None or layer.name not in self._trace.names.values():
            raise UnknownLayer(f"{layer.name} is not a value of the rebuilt network of {self._label}")
        return self._trace.returning([layer.name])


def grad_cam(torch_image: TorchImage, layer: Layer, index: int) -> Floats:
    """Each channel is weighted by its mean gradient."""
    maps, gradients = torch_image.layer(layer, index)
    return weighted_sum(gradients.mean(axis=(1, 2)), maps)


def grad_cam_plus_plus(torch_image: TorchImage, layer: Layer, index: int) -> Floats:
    """Each channel is weighted by a weighted sum of its positive gradients.

    The weight g^2 / (2 g^2 + g^3 sum A) of a gradient g is written without its common factor, which underflows.
    """
    maps, gradients = torch_image.layer(layer, index)
    divisors = 2 + gradients * maps.sum(axis=(1, 2), keepdims=True)
    usable = (gradients > 0) & (np.abs(divisors) > 1e-6)
    shares = np.divide(gradients, divisors, out=np.zeros_like(gradients), where=usable)
    return weighted_sum(shares.sum(axis=(1, 2)), maps)


def layer_cam(torch_image: TorchImage, layer: Layer, index: int) -> Floats:
    """Each value is weighted by its own positive gradient."""
    maps, gradients = torch_image.layer(layer, index)
    return (np.maximum(gradients, 0) * maps).sum(axis=0)  # type: ignore[no-any-return]


def saliency(torch_image: TorchImage, index: int) -> Floats:
    """The largest absolute gradient of a pixel's channels."""
    gradient = torch_image.mean_gradient(lambda _: torch_image.x.copy(), 1, index, np.ones(1, np.float32))
    return np.abs(gradient).max(axis=0)  # type: ignore[no-any-return]


def smooth_grad(torch_image: TorchImage, index: int, *, samples: int, seed: int) -> Floats:
    """The largest absolute value, of a pixel's channels, of the mean gradient over noisy images."""
    random = np.random.default_rng(seed)
    x = torch_image.x
    deviation = NOISE * float(x.max() - x.min())

    def noisy(part: slice) -> Floats:
        noise = random.standard_normal((part.stop - part.start, *x.shape[1:]), np.float32)
        return x + np.float32(deviation) * noise

    gradient = torch_image.mean_gradient(noisy, samples, index, np.full(samples, 1 / samples, np.float32))
    return np.abs(gradient).max(axis=0)  # type: ignore[no-any-return]


def integrated_gradients(torch_image: TorchImage, index: int, *, samples: int) -> Floats:
    """The mean gradient on the way from the mean colour to the image, times the way, summed over channels.

    The integral is a Gauss-Legendre sum of so many steps; the map sums up to the difference of the two logits.
    """
    places, weights = np.polynomial.legendre.leggauss(samples)
    steps = ((places + 1) / 2).astype(np.float32).reshape(-1, 1, 1, 1)
    x = torch_image.x  # the baseline is zero
    gradient = torch_image.mean_gradient(lambda part: steps[part] * x, samples, index, (weights / 2).astype(np.float32))
    return (gradient * x[0]).sum(axis=0)  # type: ignore[no-any-return]


@lru_cache(maxsize=1)
def _rebuilt(directory: Path, sha256: str) -> "tuple[nn.Module, Trace | None]":
    """The network, and its graph if it can be traced.

    Raises:
        ConvscopeError: the weights were changed, or the network cannot be built here.
    """
    from export.verify.reference import rebuild
    from models.graph.trace import trace

    manifest = read_manifest(directory)
    if manifest.files[WEIGHTS_FILE].sha256 != sha256:
        raise ArtifactError(f"{directory} was changed since it was loaded for serving")
    check_file(directory, manifest, WEIGHTS_FILE)
    network = rebuild(directory, manifest).network
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    try:
        return network, trace(network, (manifest.input.channels, manifest.input.height, manifest.input.width))
    except ValueError:
        return network, None
