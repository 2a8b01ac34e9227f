"""The chunks of a PNG file, read without decoding anything (W3C, PNG, third edition, section 5)."""

import struct
from collections.abc import Iterator
from zlib import crc32

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
_SUM = struct.Struct(">I")
_HEADER = struct.Struct(">IIBBBBB")
_FIRST = len(SIGNATURE)
_DATA = _FIRST + _CHUNK.size
_HEADER_END = _DATA + _HEADER.size
_HEAD = SIGNATURE + _CHUNK.pack(_HEADER.size, b"IHDR")

# Pixels depend on these; all others are text, dates and colour profiles, which are not applied.
_PIXEL_CHUNKS = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"sBIT", b"eXIf"))


def png_header(data: bytes) -> tuple[int, int, int, int, int] | None:
    """Width, height, bit depth, colour type and interlacing; None if the file does not begin as a PNG does."""
    if not data.startswith(_HEAD) or len(data) < _HEADER_END:
        return None
    width, height, depth, colour, _, _, interlace = _HEADER.unpack_from(data, _DATA)
    return width, height, depth, colour, interlace


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of the content of each chunk; ends early where the file does."""
    place, size = _FIRST, len(data)
    while place + 12 <= size:
        length, kind = _CHUNK.unpack_from(data, place)
        start = place + 8
        if start + length + 4 > size:
            return
        yield kind, start, start + length
        place = start + length + 4


def intact_kinds(data: bytes) -> set[bytes]:
    """The types of all chunks; none if a checksum is wrong, or the file ends before or after the last chunk."""
    found: set[bytes] = set()
    kind, end = b"", 0
    for kind, start, end in chunks(data):
        if crc32(data[start - 4 : end]) != _SUM.unpack_from(data, end)[0]:
            return set()
        found.add(kind)
    return found if kind == b"IEND" and end + 4 == len(data) else set()


def significant_bits(data: bytes) -> int | None:
    """The largest number that the chunk sBIT gives for a channel; None without it."""
    for kind, start, end in chunks(data):
        if kind == b"sBIT" and end > start:
            return max(data[start:end])
        if kind == b"IDAT":
            return None
    return None


def without_metadata(data: bytes) -> bytes:
    """The same picture without text, colour profiles and other chunks that change no pixel."""
    kept = [data[start - 8 : end + 4] for kind, start, end in chunks(data) if kind in _PIXEL_CHUNKS]
    return SIGNATURE + b"".join(kept)
