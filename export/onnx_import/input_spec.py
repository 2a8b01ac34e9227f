"""The input of an imported classifier, from its file and from options for values that the file leaves open."""

import re
from fractions import Fraction
from typing import Literal

from export.onnx_import.source import OnnxClassifier, OnnxImportError
from models.errors import UserError
from models.images.input_spec import InputSpec

Size = tuple[int, int] | int
Mode = Literal["L", "RGB"]

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def parse_numbers(flag: Literal["mean", "std"], text: str) -> tuple[float, ...]:
    """Parses `imagenet`, or comma-separated numbers (`0.5`, `1/255`).

    Raises:
        ValueError: anything else.
    """
    if text == "imagenet":
        return _IMAGENET[flag]
    try:
        return tuple(float(Fraction(word.strip())) for word in text.split(","))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"--{flag} is {text!r}; wanted imagenet, or numbers with commas between") from None


def parse_size(flag: str, text: str | None) -> Size | None:
    """Parses `224x192` (height first) as a pair, `224` as a number, None as None.

    Raises:
        ValueError: anything else.
    """
    if text is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?", text)
    if found is None:
        raise UserError(f"--{flag} is {text!r}; wanted HEIGHTxWIDTH or one number")
    return int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))


def choose_mode(file: OnnxClassifier, mode: Mode | None) -> Mode:
    """The mode that matches the file's channels.

    Raises:
        OnnxImportError: `mode` differs from it, or neither is known.
    """
    if mode is None and file.channels is None:
        raise OnnxImportError(f"{file.path} leaves the number of channels open; give --mode RGB or --mode L")
    own: Mode = "L" if file.channels == 1 else "RGB"
    if mode is not None and file.channels is not None and mode != own:
        raise OnnxImportError(f"{file.path} takes {file.channels} channels, which is --mode {own}, not {mode}")
    return mode or own


def choose_size(file: OnnxClassifier, size: Size | None) -> tuple[int, int]:
    """(height, width) of the network's input.

    Raises:
        OnnxImportError: `size` is not the file's, or neither is known.
    """
    wanted = pair(size)
    if wanted is None and (file.height is None or file.width is None):
        raise OnnxImportError(f"{file.path} takes images of any size; give --input HEIGHTxWIDTH")
    height, width = wanted or (file.height or 0, file.width or 0)
    if file.height not in (None, height) or file.width not in (None, width):
        own = f"{file.height or '?'}x{file.width or '?'}"
        raise OnnxImportError(f"{file.path} takes {own} images, not {height}x{width}")
    return height, width


def make_spec(
    mode: Mode,
    size: tuple[int, int],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    resize: Size | None = None,
    crop: Size | None = None,
    interpolation: str = "bilinear",
    background: int = 255,
) -> InputSpec:
    """The whole specification: images are resized to `resize`, by default `size`, and cropped to `size` around the
    centre. One number for `mean` or `std` applies to all channels.

    Raises:
        ValueError: the parts are inconsistent.
    """
    channels = 1 if mode == "L" else 3
    return InputSpec(
        mode=mode,
        height=size[0],
        width=size[1],
        resize=resize or size,
        crop=pair(crop) or (None if resize in (None, size) else size),
        interpolation=interpolation,
        background=(background,) * channels,
        mean=mean * channels if len(mean) == 1 else mean,
        std=std * channels if len(std) == 1 else std,
    )


def pair(size: Size | None) -> tuple[int, int] | None:
    """Expands one number to a square."""
    return (size, size) if isinstance(size, int) else size
