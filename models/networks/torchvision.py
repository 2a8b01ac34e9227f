"""Every torchvision classification network, by its torchvision name."""

import inspect
import typing
from typing import Any

import torch
import torchvision
from torch import nn

from models.errors import UserError
from models.networks.spec import DATA_PARAMETERS, NetworkSpec, check_logits, set_signature

# These turn off auxiliary classifiers, which only training uses and which change the return type.
_ALWAYS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def torchvision_spec(name: str) -> NetworkSpec:
    """The specification of `name`, one of `torchvision_names()`."""
    weights = torchvision.models.get_model_weights(name).DEFAULT
    size = weights.transforms.keywords["crop_size"]
    parameters = _parameters(name)

    def build(*, channels: int, height: int, width: int, classes: int, **options: Any) -> nn.Module:
        made_for_size: dict[str, Any] = {}
        if "image_size" in parameters:  # ViT; its own error for other shapes is unhelpful
            if height != width:
                raise UserError(f"{name} takes square images, got {height}x{width}")
            made_for_size["image_size"] = height
        if "input_size" in parameters:  # MaxViT
            made_for_size["input_size"] = (height, width)
        settings = {**_ALWAYS.get(name, {}), **made_for_size, **options}
        try:
            network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes, **settings)
        except (TypeError, ValueError, RuntimeError, AssertionError, ZeroDivisionError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"{name} cannot be built for {height}x{width} with {options}: {reason}") from error
        if channels == 1:
            to_grayscale_input(network)
        check_logits(name, network, torch.zeros(2, channels, height, width), classes=classes, meta=True)
        return network

    hidden = {"num_classes", "image_size", "input_size", *_ALWAYS.get(name, {})}
    set_signature(build, [parameter for key, parameter in parameters.items() if key not in hidden])
    return NetworkSpec(build, (size,), f"torchvision's {name}")


def to_grayscale_input(network: nn.Module) -> None:
    """Changes the first convolution to a single input channel.

    Its weights become the sum over the three channels, so a grey image gives the same result as three copies of it.

    Raises:
        ValueError: no convolution takes three channels.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1:
            module.weight = nn.Parameter(module.weight.detach().sum(1, keepdim=True))
            module.in_channels = 1
            return
    raise UserError(f"{type(network).__name__} has no convolution of three channels to replace for grey images")


def _parameters(name: str) -> dict[str, inspect.Parameter]:
    """The class's parameters with simple defaults, except those set by the builder."""
    builder = inspect.unwrap(torchvision.models.get_model_builder(name))
    kind = typing.get_type_hints(builder)["return"]
    parameters = inspect.signature(kind.__init__).parameters
    plain = {
        key: parameter
        for key, parameter in parameters.items()
        if key not in DATA_PARAMETERS and isinstance(parameter.default, bool | int | float)
    }
    sizes = {key: parameters[key] for key in ("image_size", "input_size") if key in parameters}
    return {**plain, **sizes}
