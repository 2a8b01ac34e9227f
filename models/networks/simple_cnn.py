"""SimpleCNN in its two well-known forms: two wide 5x5 convolutions for 28x28, three 3x3 ones for 32x32."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.errors import UserError


class SimpleCNN(nn.Module):
    """A plain stack of convolution, ReLU and 2x2 max pooling, then one hidden layer.

    28x28: 5x5 convolutions with 16 and 32 channels, hidden 128. 32x32: 3x3 convolutions with 32, 64 and 128 channels,
    hidden 512 with dropout. Other sizes of at least 8x8 take the second form.
    """

    def __init__(self, *, channels: int, height: int, width: int, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        if min(height, width) < 8:
            raise UserError(f"simple_cnn needs images of at least 8x8, got {height}x{width}")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout is {dropout}; it must be in [0, 1)")
        small = (height, width) == (28, 28)
        kernel, widths, hidden = (5, (16, 32), 128) if small else (3, (32, 64, 128), 512)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, kernel, padding=kernel // 2) for a, b in pairwise((channels, *widths))
        )
        self.pool = nn.MaxPool2d(2)
        shrink = 2 ** len(widths)
        self.fc1 = nn.Linear(widths[-1] * (height // shrink) * (width // shrink), hidden)
        self.dropout = nn.Dropout(0.0 if small else dropout)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised images to (N, K) logits."""
        for conv in self.convs:
            x = self.pool(torch.relu(conv(x)))  # halves height and width
        x = torch.flatten(x, 1)
        x = self.dropout(torch.relu(self.fc1(x)))
        return self.fc2(x)  # type: ignore[no-any-return]  # calling a Module is untyped
