"""Decodes plain images several times as fast as Pillow does, to the same pixels; Pillow takes all others.

Plain are JPEGs in grey or YCbCr (simplejpeg), and small PNGs of 8 bits in grey or RGB without transparency (pyspng).
Anything unusual, and any complaint of these libraries, makes the functions return None.
"""

import io

import numpy as np
import numpy.typing as npt
import pyspng
import simplejpeg
from PIL import Image, JpegImagePlugin

from models.images.geometry import orientation_of, turned
from models.images.header import check_jpeg, part_of
from models.images.input_spec import InputSpec
from models.images.jpeg import END, jpeg_header
from models.images.png import intact_kinds, png_header

_Pixels = npt.NDArray[np.uint8]

PNG_LIMIT_PIXELS = 65_536  # pyspng holds the interpreter's lock, for a millisecond here
_PLAIN_CHUNKS = frozenset((b"IHDR", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tIME", b"bKGD"))
_GREY_OR_RGB = (0, 2)  # colour types
_JPEG_COLOURS = {"Gray": "GRAY", "YCbCr": "RGB"}


def decode_plain(data: bytes, spec: InputSpec, limit_pixels: int) -> _Pixels | None:
    """A plain image, uint8 (H, W) or (H, W, 3), turned by its orientation; a JPEG at the part of its size needed.

    Raises:
        ImageTooLarge: it is a JPEG over the limit.
    """
    return _plain_png(data, limit_pixels) if data[:1] == b"\x89" else _plain_jpeg(data, spec, limit_pixels)


def _plain_png(data: bytes, limit_pixels: int) -> _Pixels | None:
    header = png_header(data)
    if header is None or header[2] != 8 or header[3] not in _GREY_OR_RGB or header[4]:
        return None
    if not 0 < header[0] * header[1] <= min(PNG_LIMIT_PIXELS, limit_pixels):
        return None
    found = intact_kinds(data)  # pyspng does not look at checksums
    if not found or not found <= _PLAIN_CHUNKS:
        return None
    try:
        pixels: _Pixels = pyspng.load(data)
        return pixels
    except (ValueError, RuntimeError):
        return None


def _plain_jpeg(data: bytes, spec: InputSpec, limit_pixels: int) -> _Pixels | None:
    jpeg = jpeg_header(data)
    if jpeg is None or jpeg.bits != 8 or jpeg.components not in (1, 3):
        return None
    part = part_of(spec, jpeg.height, jpeg.width)
    check_jpeg(jpeg, limit_pixels, part)
    size = {"min_height": jpeg.height // part, "min_width": jpeg.width // part} if part > 1 else {}
    try:
        colours = _JPEG_COLOURS[simplejpeg.decode_jpeg_header(data)[2]]
        pixels: _Pixels = simplejpeg.decode_jpeg(data, colorspace=colours, **size)
        orientation = orientation_of(JpegImagePlugin.JpegImageFile(io.BytesIO(data))) if jpeg.metadata else 1
    except (KeyError, ValueError, SyntaxError, OSError):
        return None
    pixels = pixels[..., 0] if colours == "GRAY" else pixels
    return pixels if orientation == 1 else np.asarray(turned(Image.fromarray(pixels), orientation))


def with_end(data: bytes) -> bytes | None:
    """A JPEG with the end marker that it lacks; None if it lacks pixels too, or is complete."""
    jpeg = jpeg_header(data)
    if jpeg is None or data.endswith(END):
        return None
    completed = data + END
    try:
        simplejpeg.decode_jpeg(completed, colorspace="CMYK" if jpeg.components == 4 else "GRAY")
    except ValueError:  # of warnings too, such as that of a scan that ends early
        return None
    return completed
