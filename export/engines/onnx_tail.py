"""The tail of an ONNX graph: the part from one inner value to the results, as a model of its own.

Experiments that change the value, such as striking out one channel after the other, then repeat this part alone.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from export.engines.onnx_graph import IMAGE, PROBABILITIES, OnnxGraph, Operation, uses
from models.errors import UserError
from models.images.decode import Floats

if TYPE_CHECKING:
    import onnxruntime

LOGITS = "logits"
Arrays = dict[str, npt.NDArray[Any]]


class Tail:
    """The network from a value on, for one image.

    Args:
        session: of the file that `write_tail` writes.
        value: the value's name.
        arrays: all that the file takes, for the image.
        single: the network takes one image only.

    Attributes:
        start: the value for the image, (1, ...).
        others: further values that the tail reads, such as those of skip connections, as they are for the image.
    """

    def __init__(
        self, session: "onnxruntime.InferenceSession", value: str, arrays: Arrays, *, single: bool = False
    ) -> None:
        self.start = arrays[value]
        self._single = single
        self._session, self._value = session, value
        self.others = {one.name: arrays[one.name] for one in session.get_inputs() if one.name != value}

    def run(self, values: npt.NDArray[Any]) -> tuple[Floats, Floats]:
        """Probabilities and logits, (N, K) each, for other contents (N, ...) of the value."""
        if self._single and len(values) > 1:
            rows = [self.run(values[i : i + 1]) for i in range(len(values))]
            return np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows])
        others = {name: np.repeat(array, len(values), axis=0) for name, array in self.others.items()}
        contents = {self._value: np.ascontiguousarray(values, self.start.dtype), **others}
        probabilities, logits = self._session.run([PROBABILITIES, LOGITS], contents)
        return probabilities, logits


def write_tail(
    graph: OnnxGraph, value: str, arrays_of: Callable[[Sequence[str]], Arrays]
) -> tuple[bytes, tuple[str, ...]]:
    """Writes the tail as an ONNX file.

    Args:
        graph: the whole.
        value: a name in it, also `image`.
        arrays_of: returns values by name for some image, for their types and shapes.

    Returns:
        The file, and the names of the other values that it takes, such as those of skip connections.

    Raises:
        ValueError: the logits do not depend on the value.
    """
    import onnx

    after = {value}
    for operation in graph.operations:  # in the order of computation
        if not after.isdisjoint(uses(operation.proto)):
            after.update(filter(None, operation.outputs))
    if LOGITS not in after:
        raise UserError(f"the logits do not depend on {value!r}")
    kept, others = _split(graph, value, after)
    arrays = arrays_of([value, *others])
    if any(arrays[name].shape[:1] != (1,) for name in others):  # no batch to repeat: compute them again
        kept, others = _split(graph, value, set(graph.of_image))
        arrays = arrays_of([value, *others])
    model = onnx.ModelProto()
    model.CopyFrom(graph.header)
    model.graph.name = "tail"
    for name in (value, *others):
        kind = onnx.helper.np_dtype_to_tensor_dtype(arrays[name].dtype)
        shape = ["batch", *arrays[name].shape[1:]]
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, shape))
    used = {name for operation in kept for name in uses(operation.proto)}
    model.graph.node.extend(operation.proto for operation in kept)
    model.graph.initializer.extend(tensor for name, tensor in graph.initializers.items() if name in used)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (PROBABILITIES, LOGITS))
    return model.SerializeToString(), others


def _split(graph: OnnxGraph, value: str, after: set[str]) -> tuple[list[Operation], tuple[str, ...]]:
    """The operations that compute the results from the value, and the further values that these take."""
    kept: set[int] = set()
    others: dict[str, None] = {}
    pending = [PROBABILITIES, LOGITS]
    while pending:
        name = pending.pop()
        operation = graph.producers.get(name)
        if name == value or (operation is None and name != IMAGE) or (operation and id(operation) in kept):
            continue
        if operation is None or (name in graph.of_image and name not in after):
            others[name] = None
            continue
        kept.add(id(operation))
        pending += uses(operation.proto)
    return [operation for operation in graph.operations if id(operation) in kept], tuple(others)
