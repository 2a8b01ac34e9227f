"""Gradual unfreezing: the last layer trains alone at first, then all layers, at once or one after another."""

from collections.abc import Collection

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def parameter_layers(network: nn.Module, *, fixed: Collection[int] = ()) -> list[nn.Module]:
    """The modules with own trainable parameters, in order of definition, less parameters whose `id` is in `fixed`."""
    return [m for m in network.modules() if any(id(p) not in fixed for p in m.parameters(recurse=False))]


def count_trainable_layers(layers: int, epoch: int, *, freeze_epochs: int, unfreeze_epochs: int) -> int:
    """The number of last layers, out of `layers`, that train in an epoch (from 1).

    One in the first `freeze_epochs`; then more with each of `unfreeze_epochs`, in equal parts (Howard and Ruder,
    Universal Language Model Fine-tuning (2018), section 3.3: gradual unfreezing); then all.
    """
    parts = unfreeze_epochs + 1
    joined = min(max(0, epoch - freeze_epochs), parts)
    return max(1, -(-layers * joined // parts))


def set_trainable_layers(network: nn.Module, count: int, *, fixed: Collection[int] = ()) -> None:
    """Makes the parameters of the last `count` layers trainable, and no others; to be called before each epoch.

    Batch norms before those layers keep their running statistics. The network is in training mode, `fixed` as in
    `parameter_layers`.
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
