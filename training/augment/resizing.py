"""Progressive resizing: smaller images in the first epochs, to save time."""

from torch import Tensor
from torch.nn import functional

SMALLEST_UNTIL = 0.5  # shares of the epochs; Composer's defaults for progressive resizing
FULL_SIZE_AT = 0.8
MULTIPLE = 4  # sides are rounded to multiples of this


def side_at_epoch(epoch: int, epochs: int, side: int, *, initial_scale: float) -> int:
    """The height or width of training images in an epoch (from 1): smaller at first, `side` in the last epochs.

    See Tan and Le, EfficientNetV2 (2021), section 4. Half of the epochs use the smallest size, a fifth the full one.
    """
    grown = min(1.0, max(0.0, (epoch / epochs - SMALLEST_UNTIL) / (FULL_SIZE_AT - SMALLEST_UNTIL)))
    scale = initial_scale + grown * (1 - initial_scale)
    return side if scale == 1 else min(side, max(1, round(side * scale / MULTIPLE)) * MULTIPLE)


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes images (N, H, W, C) to (height, width), bilinear with antialiasing; to float32 if the size changes."""
    if images.shape[1:3] == size:
        return images
    x = images.permute(0, 3, 1, 2).float()  # (N, C, H, W)
    return functional.interpolate(x, size=size, mode="bilinear", antialias=True).permute(0, 2, 3, 1)
