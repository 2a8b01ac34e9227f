"""Image files, and specifications that take them."""

import io
import struct
import zlib
from typing import Any

from PIL import Image

from models.images.input_spec import InputSpec
from tests.conftest import make_spec

HEIGHT, WIDTH = 12, 20


def spec_of(mode: str, height: int = HEIGHT, width: int = WIDTH, **changes: Any) -> InputSpec:
    """Stretches images to this size; channels have backgrounds, means and deviations of their own."""
    changes = {"resize": (height, width), **changes}
    return make_spec(channels=1 if mode == "L" else 3, height=height, width=width, **changes)


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """The file that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces RGB pixels of this size and has almost none."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64))
