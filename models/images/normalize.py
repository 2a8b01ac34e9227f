"""The first layer of every deployed graph: uint8 pixels to normalised floats."""

import torch
from torch import Tensor, nn

from models.images.input_spec import InputSpec


class Normalize(nn.Module):
    """Scales uint8 images to [0, 1], subtracts the mean and divides by the standard deviation, channel by channel.

    Training and the exported graph both use this module, so that they cannot differ.

    Args:
        spec: the mean and the standard deviation.
        memory_format: of the result; `torch.channels_last` needs no copy, as it is the pixels' memory layout.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: InputSpec, *, memory_format: torch.memory_format = torch.contiguous_format) -> None:
        super().__init__()
        self.memory_format = memory_format
        self._plain = memory_format == torch.contiguous_format
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1) * 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1) * 255.0, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, C) to float32 (N, C, H, W)."""
        x = images.permute(0, 3, 1, 2)  # (N, C, H, W)
        # Without a copy the exported adaptive pooling becomes a chain of Range and Gather. `contiguous` makes none for
        # grey images, whose strides are also those of channels_last, which a convolution then keeps: `view` fails after
        # it.
        x = (
            x.clone(memory_format=torch.contiguous_format)
            if self._plain
            else x.contiguous(memory_format=self.memory_format)
        )
        x = x.float()
        return (x - self.mean) / self.std
