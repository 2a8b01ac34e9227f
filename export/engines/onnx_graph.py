"""An ONNX file as operations on named values, for looking inside: what each value is computed from, and how."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.graph.node import Node

if TYPE_CHECKING:
    import onnx

IMAGE, PROBABILITIES = "image", "probabilities"
INPUT = "input"  # the normalised image, as node tables call it
_NORMALISING = {"Cast", "Transpose", "Sub", "Div", "Mul", "Add", "Gather"}
_ABOUT_SHAPES = {"Shape", "Size"}  # their results do not depend on the pixels


@dataclass(frozen=True, eq=False)
class Operation:
    """One node of an ONNX graph.

    Attributes:
        op: the operator, such as `Conv`.
        inputs: names of values; empty for an optional input that is left out.
        outputs: likewise.
        attributes: by name, as Python and numpy values; subgraphs are left out.
        opset: version of the operator set.
        proto: the node itself.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    opset: int
    proto: "onnx.NodeProto" = field(repr=False)


class OnnxGraph:
    """The graph of a `model.onnx`, its values addressed by the names of the node table.

    A value between two rows of the table, such as the convolution inside a `Conv2dNormActivation`, is addressed as
    `LAYER:VALUE`: the row it belongs to, and its name in the file. `input` is the normalised image, `image` the pixels,
    and `probabilities` the softmax behind the last row.

    Args:
        model: the file, parsed.
        nodes: rows of the node table.
    """

    def __init__(self, model: "onnx.ModelProto", nodes: Sequence[Node]) -> None:
        import onnx

        graph = model.graph
        self.header = onnx.ModelProto(ir_version=model.ir_version)  # what a part of the graph needs to be a model
        self.header.opset_import.extend(model.opset_import)
        self.header.functions.extend(model.functions)
        opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=1)
        self.producers: dict[str, Operation] = {}
        self.operations: list[Operation] = []
        for proto in graph.node:
            attributes = {
                one.name: onnx.helper.get_attribute_value(one)
                for one in proto.attribute
                if one.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
            }
            operation = Operation(proto.op_type, tuple(proto.input), tuple(proto.output), attributes, opset, proto)
            self.operations.append(operation)
            self.producers.update(dict.fromkeys(filter(None, proto.output), operation))
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._constants: dict[str, npt.NDArray[Any]] = {}
        self._lock = threading.Lock()
        self._nodes = {node.value: node for node in nodes if node.value}
        self.consumers: dict[str, list[Operation]] = {}
        for operation in self.operations:
            for value in uses(operation.proto):
                self.consumers.setdefault(value, []).append(operation)

    @cached_property
    def of_image(self) -> frozenset[str]:
        """Names of all values that depend on the pixels."""
        found = {IMAGE}
        for operation in self.operations:  # in the order of computation
            if operation.op not in _ABOUT_SHAPES and not found.isdisjoint(uses(operation.proto)):
                found.update(filter(None, operation.outputs))
        return frozenset(found)

    @cached_property
    def input_value(self) -> str:
        """The value that is the normalised image: the last of the normalisation, which begins at the pixels."""
        value = IMAGE
        while True:
            users = self.consumers.get(value, [])
            if len(users) != 1 or users[0].op not in _NORMALISING or users[0].outputs[0] in self._nodes:
                return value
            value = users[0].outputs[0]

    @cached_property
    def addresses(self) -> dict[str, str]:
        """The address of each value that depends on the pixels, by its name in the file."""
        return {value: owner if value in self._ends else f"{owner}:{value}" for value, owner in self._owners.items()}

    @cached_property
    def values(self) -> dict[str, str]:
        """The name in the file of each addressed value, by its address."""
        return {address: value for value, address in self.addresses.items()}

    def node(self, value: str) -> Node | None:
        """The row of the node table that a value belongs to; None for the image, the input and the probabilities."""
        return self._rows.get(self._owners[value])

    def inside(self, value: str) -> list[Operation]:
        """The operations that compute a value from addressed values of other rows, the last one first."""
        found: list[Operation] = []
        pending, owner = [value], self._owners[value]
        while pending:
            operation = self.producers.get(pending.pop(0))
            if operation is None or operation in found:
                continue
            found.append(operation)
            pending += [
                one for one in uses(operation.proto) if self._owners.get(one) == owner and one not in self._ends
            ]
        return found

    @cached_property
    def _ends(self) -> dict[str, str]:
        """Values with a plain name, by their names in the file."""
        rows = {value: node.name for value, node in self._nodes.items()}
        return {IMAGE: IMAGE, self.input_value: INPUT, **rows, PROBABILITIES: PROBABILITIES}

    @cached_property
    def _rows(self) -> dict[str, Node]:
        return {node.name: node for node in self._nodes.values()}

    @cached_property
    def _owners(self) -> dict[str, str]:
        """The plain name that each value belongs to: its own, or that of the first row that it is computed for."""
        found = dict(self._ends)
        for last, owner in self._ends.items():
            pending = [last]
            while pending:
                operation = self.producers.get(pending.pop())
                for value in uses(operation.proto) if operation else ():
                    if value in self.of_image and value not in found:
                        found[value] = owner
                        pending.append(value)
        return found

    def passed_on(self, value: str) -> str:
        """The value that a value is a plain copy of, itself if it is none.

        Dropout is one. Such copies may be read by nobody: the file reads what they copy.
        """
        while (operation := self.producers.get(value)) and operation.op == "Identity":
            value = operation.inputs[0]
        return value

    def constant(self, value: str) -> npt.NDArray[Any] | None:
        """The number or numbers that the file holds under a name; None for a value that is computed."""
        import onnx

        with self._lock:
            if value not in self._constants:
                if value in self.initializers:
                    self._constants[value] = onnx.numpy_helper.to_array(self.initializers[value])
                elif (operation := self.producers.get(value)) and operation.op == "Constant":
                    self._constants[value] = _constant_of(operation)
            return self._constants.get(value)


def uses(proto: "onnx.NodeProto") -> Iterator[str]:
    """Values that a node reads, those read inside the branches of an If and the bodies of loops included."""
    yield from filter(None, proto.input)
    for attribute in proto.attribute:
        for graph in (*attribute.graphs, *((attribute.g,) if attribute.HasField("g") else ())):
            for inner in graph.node:
                yield from uses(inner)


def _constant_of(operation: Operation) -> npt.NDArray[Any]:
    import onnx

    ((kind, content),) = operation.attributes.items()
    return onnx.numpy_helper.to_array(content) if kind == "value" else np.asarray(content)
