"""Maps from covering parts of the image."""

import math
from collections.abc import Iterator

import numpy as np

from models.images.decode import Floats
from service.inspection.explain.maps import resize
from service.inspection.explain.served import ServedImage

WINDOWS = 7  # windows side by side
CELLS, SHOWN = 8, 0.5  # a random mask's cells in a row, and the part of them that shows the image


def occlusion(served: ServedImage, index: int) -> Floats:
    """How far the logit falls, on average, when a window over a pixel is covered with the mean colour.

    Windows are a seventh of the image high and wide, and overlap by half.
    """
    height, width = served.size
    logit = served.logits[0, index]
    boxes = list(windows(height, width))
    falls, counts = np.zeros((height, width)), np.zeros((height, width))
    for part in served.watch.batches(len(boxes), served.batch_of(served.pixels.start.size)):
        masks = np.ones((part.stop - part.start, height, width), np.float32)
        for mask, box in zip(masks, boxes[part], strict=True):
            mask[box] = 0
        scores = served.pixels.run(served.masked(masks))[1][:, index]
        for score, box in zip(scores, boxes[part], strict=True):
            falls[box] += logit - score
            counts[box] += 1
    return (falls / counts).astype(np.float32)


def windows(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of every window; the last ones end with the image."""
    for rows in _slices(height):
        for columns in _slices(width):
            yield rows, columns


def window_and_stride(length: int) -> tuple[int, int]:
    """Length of a window along an axis of the image, and the distance to the next."""
    window = max(1, round(length / WINDOWS))
    return window, max(1, window // 2)


def _slices(length: int) -> Iterator[slice]:
    window, stride = window_and_stride(length)
    for step in range(math.ceil((length - window) / stride) + 1):
        yield slice(step * stride, min(step * stride + window, length))


def rise(served: ServedImage, index: int, *, samples: int, seed: int) -> Floats:
    """The mean of random masks, weighted by the class's probability for the image under them."""
    height, width = served.size
    random = np.random.default_rng(seed)
    total = np.zeros((height, width))
    for part in served.watch.batches(samples, served.batch_of(served.pixels.start.size)):
        masks = random_masks(part.stop - part.start, height, width, random)
        probabilities = served.pixels.run(served.masked(masks))[0][:, index]
        total += np.tensordot(probabilities.astype(np.float64), masks, axes=1)
    return (total / (samples * SHOWN)).astype(np.float32)


def random_masks(count: int, height: int, width: int, random: np.random.Generator) -> Floats:
    """Smooth masks (count, H, W) in [0, 1]: coarse grids of zeros and ones, enlarged, and cut out at random places."""
    cells = min(CELLS, height, width)
    cell_height, cell_width = math.ceil(height / cells), math.ceil(width / cells)
    grids = (random.random((count, cells, cells)) < SHOWN).astype(np.float32)
    enlarged = resize(grids, (cells + 1) * cell_height, (cells + 1) * cell_width)
    tops, lefts = random.integers(0, cell_height, count), random.integers(0, cell_width, count)
    cut = [mask[top : top + height, left : left + width] for mask, top, left in zip(enlarged, tops, lefts, strict=True)]
    return np.stack(cut)
