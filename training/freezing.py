"""Fine-tuning in two parts: first the last layer alone, then everything."""

from collections.abc import Collection

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def last_layer(network: nn.Module) -> nn.Module:
    """The module with parameters of its own that is defined last."""
    return [module for module in network.modules() if next(module.parameters(recurse=False), None) is not None][-1]


def set_frozen(network: nn.Module, frozen: bool, *, fixed: Collection[int] = ()) -> None:
    """Lets all parameters but those of the last layer learn, or not; to be called before each epoch.

    Batch norms of a frozen network keep their running statistics.

    Args:
        fixed: `id` of the parameters that never learn, as their network has them.
    """
    kept = {id(parameter) for parameter in last_layer(network).parameters()}
    for parameter in network.parameters():
        if id(parameter) not in kept and id(parameter) not in fixed:
            parameter.requires_grad_(not frozen)
            parameter.grad = None
    if frozen:
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
