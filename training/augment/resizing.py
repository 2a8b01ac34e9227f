"""Progressive resizing: smaller images in the first epochs, which saves time."""

from torch import Tensor
from torch.nn import functional

SMALLEST_UNTIL = 0.5  # of the epochs; Composer's defaults for its progressive resizing
FULL_SIZE_AT = 0.8
MULTIPLE = 4  # of which sides are


def side_at_epoch(epoch: int, epochs: int, side: int, *, initial_scale: float) -> int:
    """The height or width of training images in an epoch (from 1): at first smaller, in the last ones `side`.

    See Tan and Le, EfficientNetV2 (2021), section 4. Half of the epochs have the smallest size, a fifth the full one.
    """
    grown = min(1.0, max(0.0, (epoch / epochs - SMALLEST_UNTIL) / (FULL_SIZE_AT - SMALLEST_UNTIL)))
    scale = initial_scale + grown * (1 - initial_scale)
    return side if scale == 1 else min(side, max(1, round(side * scale / MULTIPLE)) * MULTIPLE)


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Brings images (N, H, W, C) to (height, width), bilinearly with antialiasing; as float32 if they change."""
    if images.shape[1:3] == size:
        return images
    x = images.permute(0, 3, 1, 2).float()  # (N, C, H, W)
    return functional.interpolate(x, size=size, mode="bilinear", antialias=True).permute(0, 2, 3, 1)
