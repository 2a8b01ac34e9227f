"""An explanation of one image: which method, which layer, which class, and the map."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from export.artifact.manifest import WEIGHTS_FILE
from export.predictor import Predictor
from models.images.decode import Floats, Pixels
from service.errors import NotInspectable, UnknownLayer, UnknownParameter
from service.inspection.explain import cam, gradients, perturbation
from service.inspection.explain.faithfulness import Trust, measure_trust
from service.inspection.explain.gradients import TorchImage
from service.inspection.explain.maps import is_empty, resize
from service.inspection.explain.methods import METHODS, Method
from service.inspection.explain.served import ServedImage
from service.inspection.explain.watch import Watch
from service.inspection.layers import Layer, choose_layer, find_layers

_OF_LAYERS: dict[str, Callable[[ServedImage, Layer, int], Floats]] = {
    "cam": cam.cam,
    "scorecam": cam.score_cam,
    "ablationcam": cam.ablation_cam,
    "eigencam": cam.eigen_cam,
}
_OF_GRADIENTS: dict[str, Callable[[TorchImage, Layer, int], Floats]] = {
    "gradcam": gradients.grad_cam,
    "gradcam++": gradients.grad_cam_plus_plus,
    "layercam": gradients.layer_cam,
}


@dataclass(frozen=True)
class Explanation:
    """A map of one image.

    Attributes:
        method: that made it.
        file: that was run for it: the served one, or the weights of the rebuilt network.
        layer: whose value it explains; None for a map of the pixels themselves.
        index: of the class.
        values: (H, W) at the network's size, signed; bilinearly enlarged from the layer's grid.
        empty: True if no place speaks for the class: the map is constant, or nowhere positive.
        trust: how far to trust it, if that was asked for and the map is not empty.
    """

    method: Method
    file: str
    layer: Layer | None
    index: int
    values: Floats
    empty: bool
    trust: Trust | None = None

    def strengths(self, values: Floats) -> Floats:
        """The positive part of `values`, or of the same resized, in [0, 1]; zeros if the map is empty."""
        if self.empty:
            return np.zeros_like(values)
        return np.clip(values / self.values.max(), 0, 1)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Refused:
    """A method that does not work for a network, with the reason."""

    method: Method
    reason: str


class Explainer:
    """Explains one image of one artifact.

    Args:
        model: the artifact.
        image: uint8 (H, W, C) as the network takes it.
        watch: asked and informed between batches.

    Attributes:
        served: the image in the served file.

    Raises:
        NotInspectable: the artifact has no ONNX file.
    """

    def __init__(self, model: Predictor, image: Pixels, watch: Watch | None = None) -> None:
        self._model, self._image = model, image
        self._watch = watch or Watch()
        self.served = ServedImage(model, image, self._watch)
        self._torch: TorchImage | None = None

    @property
    def predicted(self) -> int:
        """The class with the highest logit."""
        return int(self.served.logits[0].argmax())

    def explain(
        self,
        method: Method,
        index: int,
        *,
        layer: str | None = None,
        samples: int | None = None,
        seed: int = 0,
        evaluate: bool = False,
    ) -> Explanation:
        """The map of one method.

        Args:
            method: one of `METHODS`.
            index: of the class.
            layer: a layer's name; the last with a grid if None. Only for methods that explain a layer.
            samples: random masks, noisy images or steps; the method's default if None.
            seed: of the random numbers; the same seed gives the same map.
            evaluate: measure how far the map can be trusted, too.

        Raises:
            UnknownLayer: a layer that will not do; the message lists those that will.
            UnknownParameter: a layer or a number of samples for a method that has none.
            NotInspectable: the method does not work for this network; the message has the reason.
            Stopped: nobody waits for it any more.
        """
        if layer is not None and not method.layer:
            raise UnknownParameter(f"layer is {layer[:40]!r}, but {method.name} explains the pixels and takes none")
        if samples is not None and not method.samples:
            raise UnknownParameter(f"samples is {samples}, but {method.name} has no such number")
        self._watch.method = method.name
        chosen = self._layer(method, layer) if method.layer else None
        count = samples or method.samples
        values = self._of_layer(method, chosen, index) if chosen else self._of_pixels(method, index, count, seed)
        if not np.isfinite(values).all():
            raise NotInspectable(f"{method.name} gives numbers that are not finite, as the network does on this image")
        values = resize(values, *self.served.size)
        empty = is_empty(values)
        trust = measure_trust(self.served, values, index) if evaluate and not empty else None
        file = WEIGHTS_FILE if method.gradients else self.served.file
        return Explanation(method, file, chosen, index, values, empty, trust)

    def explain_all(self, index: int, *, layer: str | None = None, seed: int = 0) -> list[Explanation | Refused]:
        """Every method with its defaults, and how far to trust each; those that do not work with the reason.

        Raises:
            Stopped: nobody waits for it any more.
        """
        found: list[Explanation | Refused] = []
        for method in METHODS.values():
            try:
                own = layer if method.layer else None
                found.append(self.explain(method, index, layer=own, seed=seed, evaluate=True))
            except (NotInspectable, UnknownLayer) as error:
                found.append(Refused(method, str(error)))
        return found

    def default_method(self) -> Method:
        """Grad-CAM where gradients can be had, else CAM where the head allows, else Ablation-CAM.

        For a network without a layer to explain: integrated gradients, else occlusion.
        """
        spatial = bool(find_layers(self._model.manifest.nodes, self._model.manifest.input))
        try:
            self._rebuilt()
        except NotInspectable:
            if not spatial:
                return METHODS["occlusion"]
            try:
                self.explain(METHODS["cam"], self.predicted)
            except (NotInspectable, UnknownLayer):
                return METHODS["ablationcam"]
            return METHODS["cam"]
        return METHODS["gradcam" if spatial else "integrated_gradients"]

    def _layer(self, method: Method, name: str | None) -> Layer:
        manifest = self._model.manifest
        nodes = [node for node in manifest.nodes if node.value or method.gradients]
        return choose_layer(nodes, manifest.input, name, matters=self.served.matters, model=self._model.label)

    def _of_layer(self, method: Method, layer: Layer, index: int) -> Floats:
        if method.gradients:
            return _OF_GRADIENTS[method.name](self._rebuilt(), layer, index)
        return _OF_LAYERS[method.name](self.served, layer, index)

    def _of_pixels(self, method: Method, index: int, samples: int, seed: int) -> Floats:
        if method.name == "occlusion":
            return perturbation.occlusion(self.served, index)
        if method.name == "rise":
            return perturbation.rise(self.served, index, samples=samples, seed=seed)
        if method.name == "saliency":
            return gradients.saliency(self._rebuilt(), index)
        if method.name == "smoothgrad":
            return gradients.smooth_grad(self._rebuilt(), index, samples=samples, seed=seed)
        return gradients.integrated_gradients(self._rebuilt(), index, samples=samples)

    def _rebuilt(self) -> TorchImage:
        if self._torch is None:
            rebuilt = TorchImage(self._model, self._image, self._watch)
            self.served.check_difference(rebuilt.logits, "the rebuilt network")
            self._torch = rebuilt
        return self._torch


def class_index(classes: tuple[str, ...], name: str) -> int:
    """The index of a class by its name, or by its number from 0 if no class has that name.

    Raises:
        UnknownParameter: there is none.
    """
    if name in classes:
        return classes.index(name)
    if name.isascii() and name.isdecimal() and len(name) < 10 and int(name) < len(classes):
        return int(name)
    shown = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
    raise UnknownParameter(f"class is {name[:40]!r}; wanted 0 to {len(classes) - 1} or one of {shown}")
