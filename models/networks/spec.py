"""The specification of a network: its builder, sizes and options."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import UserError

DATA_PARAMETERS = ("channels", "height", "width", "classes")  # determined by the data; all other parameters are options


@dataclass(frozen=True)
class NetworkSpec:
    """A network's builder and the image sizes (height = width) it was designed for, the default first.

    `build` takes channels, height, width and classes as keywords; its other keywords are options. With `any_size`,
    square images keep their own size.
    """

    build: Callable[..., nn.Module]
    sizes: tuple[int, ...]
    about: str
    any_size: bool = False

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The network's own keyword arguments."""
        parameters = inspect.signature(self.build).parameters
        return {name: parameter for name, parameter in parameters.items() if name not in DATA_PARAMETERS}


def set_signature(build: Callable[..., nn.Module], options: Iterable[inspect.Parameter]) -> None:
    """Gives a generic `build` the signature of a builder: `DATA_PARAMETERS` and the options."""
    given = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in DATA_PARAMETERS]
    own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in options]
    build.__signature__ = inspect.Signature([*given, *own])  # type: ignore[attr-defined]  # inspect looks there first


@contextmanager
def temporary_mode(network: nn.Module, *, training: bool = False) -> Iterator[None]:
    """Sets evaluation or training mode without gradients inside the block; restores modes and buffers afterwards."""
    modes = {module: module.training for module in network.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()] if training else []
    try:
        network.train(training)
        with torch.no_grad():
            yield
    finally:
        for module, was_training in modes.items():
            module.training = was_training
        for buffer, was in buffers:
            if not torch.equal(buffer, was):  # an expanded tensor shares memory and cannot be written to
                buffer.copy_(was)


def check_logits(
    name: str, network: nn.Module, x: Tensor, *, classes: int, meta: bool = False, training: bool = False
) -> None:
    """Runs a batch of two zero images through a network and restores the network.

    Args:
        name: for messages.
        x: (2, C, H, W), on the network's device.
        meta: compute shapes only, on torch's meta device; for networks whose code creates no tensors.
        training: use training mode instead of evaluation mode.

    Raises:
        ValueError: it does not take such images, or does not return (2, classes) floats.
    """
    name = f"{name} in training mode" if training else name
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    try:
        with temporary_mode(network, training=training):
            if meta:
                shadows = {key: torch.empty_like(tensor, device="meta") for key, tensor in tensors.items()}
                found: Any = torch.func.functional_call(network, shadows, (x.to("meta"),))
            else:
                found = network(x)
    except Exception as error:  # custom code may raise anything
        size = f"{x.shape[2]}x{x.shape[3]} images of {x.shape[1]} channels"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{name} does not take {size}: {reason}") from error
    wanted = (len(x), classes)
    if not isinstance(found, Tensor):
        raise UserError(f"{name} returns {type(found).__name__}; it must return logits, a tensor of shape {wanted}")
    if tuple(found.shape) != wanted or not found.is_floating_point():
        raise UserError(
            f"{name} returns {found.dtype} of shape {tuple(found.shape)} for {len(x)} images; "
            f"it must return logits, floats of shape {wanted}"
        )
