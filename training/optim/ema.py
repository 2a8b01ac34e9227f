"""A moving average of a network's weights, which is often more accurate than the weights themselves.

Not torch.optim.swa_utils.AveragedModel: an update takes 1.2 (ResNet-18) to 6.5 (LeNet) times as long.
"""

import copy

import torch
from torch import nn

from models.checkpoint.weights import Weights, load_tensors


class ExponentialMovingAverage:
    """A copy of a network that tracks it: each value moves by 1 - decay towards the network's at every step.

    Early steps are larger, 9 / (10 + steps), so that initial weights soon lose their influence. The running statistics
    of batch norms are also averaged, as they belong to the weights they were computed with; integers are copied.

    Attributes:
        network: the copy, in evaluation mode.
        steps: number of updates.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay, self.steps = copy.deepcopy(network).eval().requires_grad_(False), decay, 0
        own, followed = self.network.state_dict(), network.state_dict()  # the tensors themselves, not copies
        floats = [name for name, tensor in own.items() if tensor.is_floating_point()]
        self._own = [own[name] for name in floats]
        self._followed = [followed[name] for name in floats]
        self._counters = [(own[name], followed[name]) for name in own.keys() - set(floats)]

    @torch.no_grad()
    def update(self) -> None:
        """Updates the copy by one step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._own, self._followed, 1 - decay)
        for own, followed in self._counters:
            own.copy_(followed)

    def restore(self, weights: Weights, steps: int) -> None:
        """Continues from an earlier average."""
        load_tensors(self.network, weights)
        self.steps = steps
