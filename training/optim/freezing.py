"""Gradual unfreezing: first only the last layer trains, then all layers, at once or one after another."""

from collections.abc import Collection

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def parameter_layers(network: nn.Module, *, fixed: Collection[int] = ()) -> list[nn.Module]:
    """Modules with trainable parameters of their own, in order, without parameters whose `id` is in `fixed`."""
    return [m for m in network.modules() if any(id(p) not in fixed for p in m.parameters(recurse=False))]


def count_trainable_layers(layers: int, epoch: int, *, freeze_epochs: int, unfreeze_epochs: int) -> int:
    """The number of last layers, out of `layers`, that train in an epoch (from 1).

    One in the first `freeze_epochs`; then more in each of `unfreeze_epochs`, in equal parts (Howard and Ruder,
    Universal Language Model Fine-tuning (2018), section 3.3: gradual unfreezing); then all.
    """
    parts = unfreeze_epochs + 1
    joined = min(max(0, epoch - freeze_epochs), parts)
    return max(1, -(-layers * joined // parts))


def set_trainable_layers(network: nn.Module, count: int, *, fixed: Collection[int] = ()) -> None:
    """Makes only the parameters of the last `count` layers trainable; call it before each epoch.

    Batch norms before those layers keep their running statistics. The network must be in training mode; `fixed` is as
    in `parameter_layers`.
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
