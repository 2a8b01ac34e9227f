"""Values that follow from a network's input size alone, computed while the network is traced."""

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.node import map_arg
from torch.fx.proxy import TraceError
from torch.utils._pytree import tree_leaves

from models.graph.example import blank_images

_BATCHES = (2, 3)  # what differs between them depends on the batch
_MORE_BATCHES = (1, 5, 64, 1000)  # for conditions on the batch, besides those that its constants suggest
_MOST_BATCHES = 100
# fx replaces them while it traces; the values here need the real ones.
_CALL, _GETATTR = nn.Module.__call__, nn.Module.__getattr__


class ShapeValues:
    """Computes values of a graph that is being traced, for two batch sizes, on tensors without data.

    Args:
        root: the traced network.
        shape: of one image, (channels, height, width).
    """

    def __init__(self, root: nn.Module, shape: Sequence[int]) -> None:
        self._root = root
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._values: tuple[dict[fx.Node, Any], ...] = ({}, {})
        self._shape = shape
        self._images = [self._image(batch) for batch in _BATCHES]

    def decide(self, node: fx.Node) -> Any:
        """The value of a number, a size or a condition.

        Raises:
            TraceError: it depends on the pixels or on the number of images.
        """
        value = self._both(node)[0]
        if _has_tensor(value):
            raise TraceError("the value depends on the pixels; tracing follows one path for all images")
        if self._varies(node) and not (isinstance(value, bool) and self._holds_for_all(node, value)):
            raise TraceError("the value depends on the number of images in the batch; it must hold for any number")
        return value

    def _holds_for_all(self, node: fx.Node, wanted: bool) -> bool:
        """True for a condition on the batch, such as `len(x) > 0`, that has the same value for any number of images."""
        if any(values[node] is not wanted for values in self._values):
            return False
        needed = self._needed(node, {})
        batches = {*_MORE_BATCHES, *_near_constants(needed)}
        if len(batches) > _MOST_BATCHES:
            return False
        for batch in sorted(batches):
            values: dict[fx.Node, Any] = {}
            try:
                with _real_modules(), torch.no_grad(), self._mode:
                    image = self._image(batch)
                    for one in node.graph.nodes:
                        if one in needed:
                            values[one] = self._run(one, values, image)
            except Exception:  # custom code may raise anything; the condition then does not hold
                return False
            if values[node] is not wanted:
                return False
        return True

    def _image(self, batch: int) -> Tensor:
        return self._mode.from_tensor(blank_images(self._root, batch, self._shape))

    def length(self, node: fx.Node) -> int:
        """The number of elements of a tensor, a tuple or a list.

        Raises:
            TraceError: it depends on the pixels or on the number of images.
        """
        first, second = (len(value) for value in self._both(node))
        if first != second:
            raise TraceError(
                "the length is the number of images in the batch, which must be any number; as a size write x.shape[0]"
            )
        return first

    def is_number(self, node: fx.Node) -> bool:
        """True for an operation whose value was computed here and contains no tensor."""
        computed = node.op in ("call_function", "call_method") and node in self._values[1]
        return computed and not _has_tensor(self._values[1][node])

    def _both(self, node: fx.Node) -> tuple[Any, Any]:
        needed = self._needed(node, self._values[1])
        try:
            with _real_modules(), torch.no_grad(), self._mode:
                for one in node.graph.nodes:
                    if one in needed:
                        for values, image in zip(self._values, self._images, strict=True):
                            values[one] = self._run(one, values, image)
        except TraceError:
            raise
        except Exception as error:  # custom code may raise anything; values that need pixels raise errors of many kinds
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise TraceError(f"the value depends on the pixels, or cannot be computed from shapes: {reason}") from error
        return self._values[0][node], self._values[1][node]

    def _needed(self, node: fx.Node, known: Mapping[fx.Node, Any]) -> set[fx.Node]:
        """A node, and all that it is computed from down to known ones."""
        needed, pending = {node}, [node]
        while pending:
            for parent in pending.pop().all_input_nodes:
                if parent not in needed and parent not in known:
                    needed.add(parent)
                    pending.append(parent)
        return needed

    def _run(self, node: fx.Node, values: dict[fx.Node, Any], image: Tensor) -> Any:
        if node in values:
            return values[node]
        target: Any = node.target
        if node.op == "placeholder":
            return node.args[0] if node.args else image
        args: tuple[Any, ...] = map_arg(node.args, values.__getitem__)
        kwargs: dict[str, Any] = map_arg(node.kwargs, values.__getitem__)
        if node.op == "get_attr":
            value = operator.attrgetter(target)(self._root)
            if isinstance(value, fx.Proxy):
                raise TraceError(f"forward replaces {target}, an attribute of the network, by a value of one image")
            return value
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return (self._root.get_submodule(target) if node.op == "call_module" else target)(*args, **kwargs)

    def _varies(self, node: fx.Node) -> bool:
        """True for a number that differs between the batch sizes, or is computed from one that does."""
        first, second = (values[node] for values in self._values)
        if _has_tensor(first):
            return False
        if first != second:
            return True
        if node.target is operator.getitem:  # one size of several
            return False
        return any(self._varies(parent) for parent in node.all_input_nodes)


def _near_constants(nodes: Iterable[fx.Node]) -> Iterator[int]:
    """Numbers of images at which a condition may change: whole numbers in it, their divisors and their neighbours."""
    for node in nodes:
        for leaf in tree_leaves((node.args, node.kwargs)):
            if isinstance(leaf, int) and 1 < leaf < 5000:
                for divisor in (part for part in range(1, leaf + 1) if leaf % part == 0):
                    yield from (size for size in (divisor - 1, divisor, divisor + 1) if size)


def _has_tensor(value: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in tree_leaves(value))


@contextmanager
def _real_modules() -> Iterator[None]:
    """Calls modules instead of recording their calls inside the block."""
    call, getattr_ = nn.Module.__call__, nn.Module.__getattr__
    try:
        nn.Module.__call__, nn.Module.__getattr__ = _CALL, _GETATTR  # type: ignore[method-assign]
        yield
    finally:
        nn.Module.__call__, nn.Module.__getattr__ = call, getattr_  # type: ignore[method-assign]
