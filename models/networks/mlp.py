"""A multilayer perceptron: a baseline without convolutions."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.errors import UserError


class MLP(nn.Module):
    """The flattened image, hidden layers with ReLU, and the logits: 784-128-K for 28x28 grey images.

    `hidden` are the widths between. After LeCun et al. (1998), section III.C.3 (fully connected networks).
    """

    def __init__(
        self, *, channels: int, height: int, width: int, classes: int, hidden: tuple[int, ...] = (128,)
    ) -> None:
        super().__init__()
        if any(layer < 1 for layer in hidden):
            raise UserError(f"hidden is {hidden}; every width must be at least 1")
        self.fc = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise((channels * height * width, *hidden, classes)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised images to (N, K) logits."""
        x = torch.flatten(x, 1)  # (N, C * H * W)
        for layer in self.fc[:-1]:
            x = torch.relu(layer(x))
        return self.fc[-1](x)  # type: ignore[no-any-return]  # ModuleList is untyped
