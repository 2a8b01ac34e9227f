"""Maps as arrays: resizing them as torch does, and bringing them back to the picture that was sent."""

from typing import Any

import numpy as np
import numpy.typing as npt

from models.images.decode import Floats
from models.images.geometry import crop_origin, resized_size
from models.images.input_spec import InputSpec

Places = npt.NDArray[np.floating[Any]]
_EVEN = 1e-5  # of the largest absolute value: a smaller range is rounding


def is_empty(values: Floats) -> bool:
    """True for a map without a place that speaks for the class: constant, or nowhere positive."""
    low, high = float(values.min()), float(values.max())
    return high <= 0 or high - low <= _EVEN * max(abs(low), abs(high))


def positive(values: Floats) -> Floats:
    """The positive part in [0, 1]; zeros for an empty map."""
    if is_empty(values):
        return np.zeros_like(values)
    return np.maximum(values, 0) / values.max()  # type: ignore[no-any-return]


def resize(maps: Floats, height: int, width: int) -> Floats:
    """Bilinear resizing of (..., h, w), without antialiasing, as torch's `interpolate` with `align_corners=False`."""
    rows = _positions(height, maps.shape[-2] / height, 0.0)
    columns = _positions(width, maps.shape[-1] / width, 0.0)
    return _sampled(maps, rows, columns)


def to_picture(values: Floats, spec: InputSpec, size: tuple[int, int]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """A map (H, W) of the network's input in the pixels of the picture that it was made from.

    Args:
        values: the map.
        spec: how the picture was resized and cropped.
        size: (height, width) of the picture, its EXIF orientation applied.

    Returns:
        (height, width) values, 0 outside of the crop, and True where the network sees the picture.
    """
    resized = resized_size(spec, *size)
    origin = crop_origin(spec, *resized)
    rows, columns = (_positions(size[axis], resized[axis] / size[axis], origin[axis]) for axis in (0, 1))
    inside = [
        (positions > -0.5) & (positions < length - 0.5)
        for positions, length in zip((rows, columns), values.shape, strict=True)
    ]
    seen = inside[0][:, np.newaxis] & inside[1]
    return np.where(seen, _sampled(values, rows, columns), np.float32(0)), seen


def gaussian_blur(maps: npt.NDArray[np.float32], sigma: float, axes: tuple[int, int]) -> Floats:
    """Blurs two axes by a Gaussian; edges are repeated."""
    reach = max(1, round(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    for axis in axes:
        padding = [(reach, reach) if one == axis else (0, 0) for one in range(maps.ndim)]
        padded = np.pad(maps, padding, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis=axis)
        maps = (windows @ weights).astype(np.float32)
    return maps


def _positions(count: int, scale: float, origin: float) -> Places:
    """Where the centres of `count` pixels lie among those of the map."""
    return (np.arange(count) + 0.5) * scale - 0.5 - origin


def _sampled(maps: Floats, rows: Places, columns: Places) -> Floats:
    for axis, positions in ((-2, rows), (-1, columns)):
        last = maps.shape[axis] - 1
        positions = np.clip(positions, 0, last)
        low = np.floor(positions).astype(np.intp)
        part = (positions - low).astype(np.float32)
        part = part[:, np.newaxis] if axis == -2 else part
        high = np.minimum(low + 1, last)
        maps = maps.take(low, axis) * (1 - part) + maps.take(high, axis) * part
    return maps
