"""An animated picture of a kernel sliding over one image, with its running sum."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from export.predictor import Predictor
from models.images.decode import Floats, Pixels
from service.errors import NoKernels, UnknownUnit
from service.inspection.arithmetic.terms import Numbers
from service.inspection.channels import ranges, to_bytes
from service.inspection.units import UnitInspector

FRAMES = 120  # at most; larger maps are walked in steps
_SIDE, _MARGIN, _CAPTION = 280, 16, 22
_BACKGROUND, _INK, _ACCENT = (24, 24, 24), (235, 235, 235), (255, 150, 40)


@dataclass(frozen=True)
class Slide:
    """Frames of a sliding kernel.

    Attributes:
        frames: of equal size.
        positions: (row, column) of the output that each frame ends with.
        sums: the value of each of these, with the bias.
    """

    frames: list[Image.Image]
    positions: list[tuple[int, int]]
    sums: list[float]

    def save(self, path: Path, *, milliseconds: int = 120) -> None:
        """Writes an endless animated GIF."""
        first, *others = (frame.quantize(64) for frame in self.frames)
        buffer = io.BytesIO()
        first.save(buffer, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
        path.write_bytes(buffer.getvalue())


def draw_slide(model: Predictor, image: Pixels, layer: str, channel: int) -> Slide:
    """Draws one channel of a convolution or pool as it comes into being, position after position.

    On the left is the channel of the input that weighs most in the kernel, with the window; on the right the output so
    far; below them the window's products and their running sum.

    Args:
        model: the artifact.
        image: uint8 (H, W, C) as the network takes it.
        layer: a layer whose value is (C, H, W) and which reads windows of one other layer.
        channel: of its value.

    Raises:
        NoKernels: the layer slides no window.
        UnknownLayer, UnknownUnit, NotInspectable: as for units.
    """
    inspector = UnitInspector(model, image)
    shape = inspector.compute([layer])[layer]
    if len(shape) != 3:
        raise NoKernels(f"{layer} is {shape}; a kernel slides over feature maps, (channels, height, width)")
    if not 0 <= channel < shape[0]:
        raise UnknownUnit(f"{layer} has no channel {channel}; they go from 0 to {shape[0] - 1}")
    corner = inspector.unit(layer, (channel, 0, 0))
    if len(corner.arithmetic.terms) != 1 or corner.operators[-1] not in ("Conv", "MaxPool", "AveragePool"):
        raise NoKernels(f"{layer} ({', '.join(corner.operators)}) slides no kernel")
    (terms,) = corner.arithmetic.terms
    weights = np.abs(terms.values if terms.weights is None else terms.weights).sum(axis=(1, 2))
    heaviest = int(weights.argmax())
    source = _grey(inspector.value(terms.source.value)[terms.source.axes[0][heaviest]])
    output = _grey(inspector.value(layer)[channel])
    frames, positions, sums = [], [], []
    for row, column in _places(shape[1], shape[2]):
        unit = inspector.unit(layer, (channel, row, column))
        (window,) = unit.arithmetic.terms
        done = output.copy()
        done.reshape(-1, 3)[row * shape[2] + column + 1 :] = _BACKGROUND
        caption = f"{layer}, channel {channel}, row {row}, column {column}: {unit.served:.4g}"
        products = window.values if window.products is None else window.products
        axes = window.source.axes[1], window.source.axes[2]
        frames.append(_frame(caption, source, axes, done, (row, column), _running(products, unit.arithmetic.bias)))
        positions.append((row, column))
        sums.append(unit.served)
    return Slide(frames, positions, sums)


def _places(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Positions in reading order, at most `FRAMES`, the last one among them."""
    total = height * width
    step = -(-total // FRAMES)
    for place in [*range(0, total - 1, step), total - 1]:
        yield divmod(place, width)


def _running(products: Numbers, bias: float) -> str:
    sums = products.sum(axis=(1, 2))
    parts = [f"{one:+.3g}" for one in sums[:6]] + (["..."] if len(sums) > 6 else [])
    return f"channel sums {' '.join(parts)}; bias {bias:+.3g}; sum {sums.sum() + bias:+.4g}"


def _grey(value: Floats) -> Pixels:
    """(H, W) as grey pixels (H, W, 3), black at the minimum."""
    ((low, high),) = ranges([value[np.newaxis]], "layer")
    return np.repeat(to_bytes(value[np.newaxis], low, high)[0][..., np.newaxis], 3, axis=-1)


def _frame(
    caption: str,
    source: Pixels,
    window: tuple[Sequence[int], Sequence[int]],
    done: Pixels,
    place: tuple[int, int],
    below: str,
) -> Image.Image:
    frame = Image.new("RGB", (2 * _SIDE + 3 * _MARGIN, _SIDE + 2 * _MARGIN + 2 * _CAPTION), _BACKGROUND)
    pen, font = ImageDraw.Draw(frame), ImageFont.load_default(12)
    pen.text((_MARGIN, _MARGIN // 2), caption, font=font, fill=_INK)
    for number, value in enumerate((source, done)):
        left, top = _MARGIN + number * (_SIDE + _MARGIN), _MARGIN + _CAPTION
        picture = Image.fromarray(value)
        frame.paste(picture.resize((_SIDE, _SIDE), Image.Resampling.NEAREST), (left, top))
        scale_y, scale_x = _SIDE / value.shape[0], _SIDE / value.shape[1]
        rows, columns = window if number == 0 else ([place[0]], [place[1]])
        box = (columns[0] * scale_x, rows[0] * scale_y, (columns[-1] + 1) * scale_x - 1, (rows[-1] + 1) * scale_y - 1)
        pen.rectangle([left + box[0], top + box[1], left + box[2], top + box[3]], outline=_ACCENT, width=2)
    pen.text((_MARGIN, frame.height - _CAPTION), below, font=font, fill=_INK)
    return frame
