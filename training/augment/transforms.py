"""Augmentation of a whole batch of uint8 images at once, on their device."""

import math

import torch
from torch import Tensor
from torch.nn import functional

CROP_ASPECT = (3 / 4, 4 / 3)  # width / height: Szegedy et al., Going deeper with convolutions (2015), section 6
ERASED_AREA = (0.02, 0.2)  # shares of the image: Zhong et al., Random Erasing Data Augmentation (2017), section 4
ERASED_ASPECT = (0.3, 3.3)


def augment(
    images: Tensor,
    *,
    shift: int = 0,
    flip: bool = False,
    crop: float = 0.0,
    rotation: float = 0.0,
    erasing: float = 0.0,
    reflect: bool = False,
    background: int,
    generator: torch.Generator,
) -> Tensor:
    """Flips half of the images horizontally, crops, rotates and shifts all, and erases a rectangle in some.

    Args:
        images: uint8 (N, H, W, C).
        shift: maximum shift, in pixels; integers from -shift to shift are equally likely.
        crop: minimum area of a crop, as a share of the image's; crops are scaled to full size. 0 is off.
        rotation: maximum rotation to either side, in degrees.
        erasing: probability that a rectangle is overwritten with noise.
        reflect: fill uncovered areas with the mirrored image.
        background: grey level (0-255) that fills them otherwise.
        generator: on the device of the images.

    Returns:
        uint8 (N, H, W, C); the input itself if nothing is enabled.
    """
    n = len(images)
    if flip:
        mirrored = torch.rand((n, 1, 1, 1), generator=generator, device=images.device) < 0.5
        images = torch.where(mirrored, images.flip(2), images)
    if crop:
        images = resized_crops(images, _boxes(images, crop, generator))
    if rotation:
        draws = torch.rand(n, generator=generator, device=images.device)
        images = rotate(images, (2 * draws - 1) * rotation, background=background, reflect=reflect)
    if shift:
        images = _shifted(_mirrored(images, shift) if reflect else _padded(images, shift, background), shift, generator)
    return _erased(images, erasing, generator) if erasing else images


def rotate(images: Tensor, degrees: Tensor, *, background: int, reflect: bool = False) -> Tensor:
    """Rotates uint8 images (N, H, W, C) anticlockwise about their centres by `degrees` (N,), bilinearly.

    Areas outside the image become `background`, or with `reflect` the mirrored image.
    """
    _, height, width, _ = images.shape
    radians = degrees * (math.pi / 180)
    cos, sin, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    across = torch.stack((cos, -sin * (height / width), zero), dim=1)  # (N, 3)
    down = torch.stack((sin * (width / height), cos, zero), dim=1)  # (N, 3)
    source = torch.stack((across, down), dim=1)  # (N, 2, 3)
    return _sampled(images, source, outside="reflection" if reflect else "zeros", background=background)


def resized_crops(images: Tensor, boxes: Tensor) -> Tensor:
    """Scales a box of each uint8 image (N, H, W, C) to (H, W), bilinearly.

    `boxes` (N, 4), in pixels, are top, left, height and width.
    """
    _, height, width, _ = images.shape
    top, left, tall, wide = boxes.float().unbind(1)
    zero = torch.zeros_like(top)
    across = torch.stack((wide / width, zero, (2 * left + wide) / width - 1), dim=1)  # (N, 3)
    down = torch.stack((zero, tall / height, (2 * top + tall) / height - 1), dim=1)  # (N, 3)
    return _sampled(images, torch.stack((across, down), dim=1), outside="border")


def _boxes(images: Tensor, smallest: float, generator: torch.Generator) -> Tensor:
    """Random boxes (N, 4) within the images, of at least the share `smallest` of their area, up to rounding."""
    n, height, width, _ = images.shape
    area, aspect, top, left = torch.rand((4, n), generator=generator, device=images.device)
    area = (smallest + area * (1 - smallest)) * height * width
    low, high = map(math.log, CROP_ASPECT)
    aspect = (low + aspect * (high - low)).exp()
    # Boxes wider or taller than the image are clipped, and extended in the other direction to keep the area.
    tall = torch.maximum((area / aspect).sqrt(), area / width).round().clamp(1, height)
    wide = torch.maximum((area * aspect).sqrt(), area / height).round().clamp(1, width)
    return torch.stack(((top * (height - tall + 1)).floor(), (left * (width - wide + 1)).floor(), tall, wide), dim=1)


def _sampled(images: Tensor, source: Tensor, *, outside: str, background: int = 0) -> Tensor:
    """Samples uint8 images (N, H, W, C) bilinearly.

    `source` (N, 2, 3) maps (x, y, 1) of the result to (x, y) of the input, both from -1 to 1; `outside` is torch's
    padding mode.
    """
    x = images.permute(0, 3, 1, 2).float() - background  # (N, C, H, W); grid_sample fills the outside with 0
    grid = functional.affine_grid(source, list(x.shape), align_corners=False)
    x = functional.grid_sample(x, grid, padding_mode=outside, align_corners=False) + background
    return x.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _padded(images: Tensor, border: int, background: int) -> Tensor:
    n, height, width, channels = images.shape
    padded = images.new_full((n, height + 2 * border, width + 2 * border, channels), background)
    padded[:, border : border + height, border : border + width] = images
    return padded


def _mirrored(images: Tensor, border: int) -> Tensor:
    """Pads the images with their mirror image; the outermost pixels are not repeated."""
    for axis in (1, 2):
        last = images.shape[axis] - 1
        there = torch.arange(-border, last + border + 1, device=images.device)
        images = images.index_select(axis, last - (there.remainder(2 * last) - last).abs() if last else there * 0)
    return images


def _shifted(padded: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """A random window of each image (N, H + 2k, W + 2k, C), with k = `shift`."""
    n, height, width = len(padded), padded.shape[1] - 2 * shift, padded.shape[2] - 2 * shift
    # All windows as views, of which each image takes one: 3-8 times faster here than gathering its pixels.
    windows = padded.unfold(1, height, 1).unfold(2, width, 1)  # (N, 2k+1, 2k+1, C, H, W)
    top, left = torch.randint(2 * shift + 1, (2, n), generator=generator, device=padded.device)
    images = windows[torch.arange(n, device=padded.device), top, left]  # (N, C, H, W)
    return images.permute(0, 2, 3, 1)


def _erased(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Overwrites a rectangle of a `share` of the images with noise."""
    n, height, width, _ = images.shape
    chosen, area, aspect, top, left = torch.rand((5, n, 1, 1, 1), generator=generator, device=images.device)
    area = (ERASED_AREA[0] + area * (ERASED_AREA[1] - ERASED_AREA[0])) * height * width
    low, high = map(math.log, ERASED_ASPECT)
    aspect = (low + aspect * (high - low)).exp()
    tall = (area * aspect).sqrt().round().clamp(1, height)  # (N, 1, 1, 1)
    wide = (area / aspect).sqrt().round().clamp(1, width)
    top, left = (top * (height - tall + 1)).floor(), (left * (width - wide + 1)).floor()
    y = torch.arange(height, device=images.device).view(1, -1, 1, 1)
    x = torch.arange(width, device=images.device).view(1, 1, -1, 1)
    inside = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide) & (chosen < share)  # (N, H, W, 1)
    noise = torch.randint(256, images.shape, generator=generator, device=images.device, dtype=torch.uint8)
    return torch.where(inside, noise, images)
