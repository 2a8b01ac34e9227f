"""Small files that announce huge images are refused before anything of that size is allocated."""

import struct
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.models.images.image_files import png_header

MEMORY_BYTES = 700 * 2**20  # enough for Python, numpy and Pillow; far less than any of these images
PROGRAM = """
import resource, sys
from models.images.errors import ImageError
from models.images.input_spec import InputSpec
from models.images.decode import decode_image
spec = InputSpec(mode="L", height=28, width=28, resize=(28, 28), background=(0,), mean=(0.5,), std=(0.5,))
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
try:
    decode_image(sys.stdin.buffer.read(), spec)
except ImageError as error:
    print(error.code, error)
"""


def png_with_a_huge_header() -> bytes:
    return png_header(30_000, 30_000)


def gif_with_a_huge_frame() -> bytes:
    """43 bytes; Pillow fills a frame of the announced size while it opens such a file (disposal method 2)."""
    head = b"GIF89a" + struct.pack("<HHBBB", 40_000, 40_000, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 40_000, 40_000, 0)
    return head + b"\x21\xf9\x04\x08\0\0\0\0" + frame + b"\x02\x02\x44\x01\0\x3b"


def tiff_with_a_huge_tile() -> bytes:
    """A 10x10 image in one tile of 32768x32768, which libtiff would fill."""
    data = b"\x80\x00\x01\x01" * 16
    tags = {256: 10, 257: 10, 258: 8, 259: 5, 262: 1, 277: 1, 322: 32_768, 323: 32_768, 324: 0, 325: len(data)}
    tags[324] = 8 + 2 + 12 * len(tags) + 4
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + bytes(4) + data


@pytest.mark.parametrize("make", [png_with_a_huge_header, gif_with_a_huge_frame, tiff_with_a_huge_tile])
def test_a_huge_image_is_refused_from_its_header_alone(make: Callable[[], bytes]) -> None:
    command = [sys.executable, "-c", PROGRAM, str(MEMORY_BYTES)]
    done = subprocess.run(command, input=make(), capture_output=True, timeout=60)
    assert done.stdout.startswith(b"image_too_large "), done.stderr.decode()
    assert b"MP; the limit is 50 MP" in done.stdout
