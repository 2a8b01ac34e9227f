"""Units: one element of one value of the served network, down to the multiplications that make it."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from export.engines.onnx_graph import IMAGE, OnnxGraph, Operation
from export.engines.onnxruntime import OnnxFeatureExtractor
from export.predictor import Predictor
from models.graph.node import Node
from models.graph.receptive_field import Box
from models.images.decode import Pixels
from service.errors import NotInspectable, UnknownLayer, UnknownUnit
from service.inspection.arithmetic.rules import explain
from service.inspection.arithmetic.terms import Arithmetic, Source, Terms, Values

_SINGLE = {"BatchNormalization", "Cast", "Clip", "Dropout", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu",
           "PRelu", "Relu", "Sigmoid", "Softplus", "Elu", "Selu", "Mish", "Tanh"}  # fmt: skip


@dataclass(frozen=True)
class Following:
    """The value at the same position after a layer that works on single elements, such as an activation."""

    layer: str
    op: str
    value: float


@dataclass(frozen=True)
class Unit:
    """One element of one value, and how it is computed.

    Attributes:
        layer: the value's address: a name of the node table, `LAYER:VALUE` for a value inside a layer, `input`,
            `image` or `probabilities`.
        op: the layer's class or function; empty for the three last.
        operators: ONNX operators whose arithmetic this is, the last first.
        shape: of the value for one image.
        index: the element's position in it.
        arithmetic: its terms and their sum; sources are addressed likewise, their axes without the batch.
        inputs: addresses and shapes of everything that the operators read and that depends on the image.
        served: the element as the file computed it.
        largest: largest absolute value of the whole value.
        receptive_field: pixels of the network's input that can influence the element, the part outside of the input
            included; None where it is all of them or unknown.
        clipped: the part of it inside the input.
        following: layers after it that work on single elements, up to the first that does not.
    """

    layer: str
    op: str
    operators: tuple[str, ...]
    shape: tuple[int, ...]
    index: tuple[int, ...]
    arithmetic: Arithmetic
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    served: float
    largest: float
    receptive_field: Box | None
    clipped: Box | None
    following: tuple[Following, ...]

    @property
    def difference(self) -> float | None:
        """What the arithmetic, in double precision, differs from the file's value by; None if it is unknown."""
        return None if self.arithmetic.value is None else self.arithmetic.value - self.served


def inspect_unit(model: Predictor, image: Pixels, layer: str, index: Sequence[int]) -> Unit:
    """Runs `model.onnx` on one image, and does the arithmetic of one element again.

    Args:
        model: the artifact.
        image: uint8 (H, W, C) as the network takes it.
        layer: an address, see `Unit`.
        index: the element's position in the value of one image: (channel, row, column), (element,) and so on.

    Raises:
        NotInspectable: the artifact has no ONNX file.
        UnknownLayer: no such address.
        UnknownUnit: no such position.
    """
    return UnitInspector(model, image).unit(layer, tuple(index))


def extractor_of(model: Predictor) -> OnnxFeatureExtractor:
    """What looks into the artifact's ONNX file.

    Raises:
        NotInspectable: it has none.
    """
    if model.extractor is None:
        raise NotInspectable(f"{model.manifest.name} was exported without model.onnx, which inspection reads")
    return model.extractor


def find_value(model: Predictor, graph: OnnxGraph, layer: str) -> str:
    """The name in the file of an addressed value.

    Raises:
        UnknownLayer: no such address; the message lists the nearest.
    """
    known = graph.values
    if layer not in known:
        near = difflib.get_close_matches(layer, known, n=3, cutoff=0.4) or list(known)[:8]
        raise UnknownLayer(f"{model.manifest.name} has no layer {layer!r}; near are {', '.join(near)}")
    return known[layer]


class UnitInspector:
    """One image in one network, for many units: values are computed once and kept.

    Args:
        model, image: see `inspect_unit`, which raises the same errors.
    """

    def __init__(self, model: Predictor, image: Pixels) -> None:
        self._model = model
        self._extractor = extractor_of(model)
        self._graph: OnnxGraph = self._extractor.graph
        self._image = image[np.newaxis]
        self._computed: dict[str, npt.NDArray[Any]] = {IMAGE: self._image}

    @property
    def layers(self) -> tuple[str, ...]:
        """Every address."""
        return tuple(self._graph.values)

    def compute(self, layers: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Computes values in one run, for units that are asked for later; returns their shapes for one image."""
        names = {layer: find_value(self._model, self._graph, layer) for layer in layers}
        arrays = self._fetch(list(names.values()))
        return {layer: arrays.shape(name) for layer, name in names.items()}

    def value(self, layer: str) -> npt.NDArray[Any]:
        """The whole value of an address for one image, such as (channels, height, width)."""
        name = find_value(self._model, self._graph, layer)
        arrays = self._fetch([name])
        return arrays[name].reshape(arrays.shape(name))

    def unit(self, layer: str, index: tuple[int, ...]) -> Unit:
        """See `inspect_unit`."""
        value = find_value(self._model, self._graph, layer)
        operations = self._graph.inside(value)
        following = self._following(value)
        arrays = self._run(value, operations, [operation.outputs[0] for operation in following])
        shape = arrays.shape(value)
        place = _checked(layer, index, shape)
        whole = arrays[value]
        at = (0, *place) if len(whole.shape) > len(shape) else place
        arithmetic, used = self._arithmetic(value, at, arrays)
        node = self._graph.node(value)
        box = _receptive_field(node, place, shape)
        spec = self._model.manifest.input
        return Unit(
            layer=layer,
            op=node.op if node else "",
            operators=tuple(operation.op for operation in used),
            shape=shape,
            index=place,
            arithmetic=replace(arithmetic, terms=tuple(self._addressed(one, arrays) for one in arithmetic.terms)),
            inputs=tuple(
                (self._graph.addresses[name], arrays.shape(name))
                for name in dict.fromkeys(name for operation in used for name in operation.inputs)
                if name in self._graph.of_image and not any(name in operation.outputs for operation in used)
            ),
            served=float(whole[at]),
            largest=float(np.abs(whole).max()),
            receptive_field=box,
            clipped=box and box.clipped(spec.height, spec.width),
            following=tuple(
                Following(self._graph.addresses[one.outputs[0]], one.op, float(arrays[one.outputs[0]][at]))
                for one in following
            ),
        )

    def _following(self, value: str) -> list[Operation]:
        """The chain of operations on single elements that alone read a value, one after the other."""
        found: list[Operation] = []
        while True:
            users = self._graph.consumers.get(value, [])
            if len(users) != 1 or users[0].op not in _SINGLE or users[0].outputs[0] not in self._graph.addresses:
                return found
            found.append(users[0])
            value = users[0].outputs[0]

    def _run(self, value: str, operations: Sequence[Operation], further: Sequence[str]) -> "_Arrays":
        """A value and everything that its operations read."""
        return self._fetch([value, *further, *(name for one in operations for name in one.inputs if name)])

    def _fetch(self, names: Sequence[str]) -> "_Arrays":
        constants = {name: found for name in names if (found := self._graph.constant(name)) is not None}
        missing = [name for name in dict.fromkeys(names) if name not in constants and name not in self._computed]
        if missing:
            _, arrays = self._extractor.run(self._image, missing)
            self._computed.update(zip(missing, arrays, strict=True))
        of_image = {name: array for name, array in self._computed.items() if name in self._graph.of_image}
        settings = {name: array for name, array in self._computed.items() if name not in of_image}
        return _Arrays(of_image, {**constants, **settings})

    def _arithmetic(self, value: str, index: tuple[int, ...], arrays: "_Arrays") -> tuple[Arithmetic, list[Operation]]:
        """The arithmetic of an element, together with that of a value inside the layer that is merely passed on.

        A linear layer is a MatMul and an Add in the file, for example.
        """
        operation = self._graph.producers.get(value)
        if operation is None:
            return Arithmetic("copy", (), float(arrays[value][index]), float(arrays[value][index]), "pixel"), []
        found = explain(operation, value, index, arrays)
        if found.kind not in ("weighted_sum", "copy") or len(found.terms) != 1:
            return found, [operation]
        (term,) = found.terms
        inner = self._graph.addresses[term.source.value]
        if ":" not in inner or term.values.size != 1 or term.weights is None or term.weights.item() != 1:
            return found, [operation]
        place = tuple(axis[0] for axis in term.source.axes)
        before, used = self._arithmetic(term.source.value, place, arrays)
        if before.kind == "unknown" or (found.bias and before.kind not in ("weighted_sum", "copy")):
            return found, [operation]
        return before.shifted(found.bias) if found.bias else before, [operation, *used]

    def _addressed(self, term: Terms, arrays: "_Arrays") -> Terms:
        """The same terms with addresses for names, and without the axis of the batch."""

        def address(source: Source) -> Source:
            axes = source.axes[1:] if arrays.has_batch(source.value) else source.axes
            return Source(self._graph.addresses[source.value], axes)

        first: Any = 0 if arrays.has_batch(term.source.value) else slice(None)
        return Terms(
            address(term.source),
            term.values[first],
            None if term.weights is None else term.weights[first],
            None if term.padding is None else term.padding[first],
            term.weights_source and address(term.weights_source),
        )


class _Arrays(Values):
    """Values of a run on one image; most have a first axis of one, the batch."""

    def has_batch(self, name: str) -> bool:
        """True if the first axis is the batch's."""
        return self[name].shape[:1] == (1,)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape for one image."""
        return tuple(self[name].shape[1:] if self.has_batch(name) else self[name].shape)


def _checked(layer: str, index: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(index) != len(shape) or not all(0 <= place < size for place, size in zip(index, shape, strict=True)):
        ranges = ", ".join(f"0 to {size - 1}" for size in shape)
        raise UnknownUnit(f"{layer} has no unit {index}; its shape is {shape}, so indices go from {ranges}")
    return index


def _receptive_field(node: Node | None, index: tuple[int, ...], shape: tuple[int, ...]) -> Box | None:
    if node is None or len(shape) != 3 or shape[1:] != node.shape[1:]:
        return None  # no map, or inside a layer that changes the size
    return node.box(*index[1:])
