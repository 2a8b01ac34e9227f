"""Fine-tuning in parts: first the last layer alone, then everything, at once or layer after layer."""

from collections.abc import Collection

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def parameter_layers(network: nn.Module, *, fixed: Collection[int] = ()) -> list[nn.Module]:
    """The modules with parameters of their own that can learn, in the order in which they are defined; at least one.

    Args:
        fixed: `id` of the parameters that never learn, as their network has them.
    """
    return [m for m in network.modules() if any(id(p) not in fixed for p in m.parameters(recurse=False))]


def count_trainable_layers(layers: int, epoch: int, *, freeze_epochs: int, unfreeze_epochs: int) -> int:
    """How many of the last layers learn in an epoch (from 1), of all `layers`.

    One in the first `freeze_epochs`; then more with each of `unfreeze_epochs`, in equal parts (Howard and Ruder,
    Universal Language Model Fine-tuning (2018), section 3.3: gradual unfreezing); then all.
    """
    parts = unfreeze_epochs + 1
    joined = min(max(0, epoch - freeze_epochs), parts)
    return max(1, -(-layers * joined // parts))


def set_trainable_layers(network: nn.Module, count: int, *, fixed: Collection[int] = ()) -> None:
    """Lets the parameters of the last `count` layers learn and no others; to be called before each epoch.

    Batch norms before those layers keep their running statistics.

    Args:
        network: in training mode.
        count: from 1 to the number of `parameter_layers` the network.
        fixed: as there.
    """
    learning = parameter_layers(network, fixed=fixed)[-count:]
    kept = {id(parameter) for layer in learning for parameter in layer.parameters(recurse=False)}
    for parameter in network.parameters():
        if id(parameter) not in fixed:
            parameter.requires_grad_(id(parameter) in kept)
    for module in network.modules():
        if module is learning[0]:
            break
        if isinstance(module, _BatchNorm):
            module.eval()
