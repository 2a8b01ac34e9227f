"""Compressed request bodies, decompressed in parts, so that the limits also hold for the decompressed content."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager

from service.errors import BodyTooLarge, MalformedBody, UnsupportedType
from service.http.bodies import BodyReader
from service.settings import Limit

_WINDOW_BITS = {"gzip": 31, "deflate": 15}  # HTTP's deflate is zlib's format: RFC 9110, 8.4.1.2
_PART_BYTES = 4 * 2**20


@asynccontextmanager
async def decompress_body(
    body: bytes, encoding: str, *, body_reader: BodyReader, limit_bytes: Limit, executor: Executor
) -> AsyncIterator[bytes]:
    """The decompressed body, also counted as held until the block ends.

    Raises:
        UnsupportedType: an encoding other than gzip, deflate or none.
        BodyTooLarge: it holds more than `limit_bytes`.
        MalformedBody: it is not in that encoding, is truncated, or has trailing bytes.
        QueueFull: too many bytes are already held.
    """
    if encoding in ("", "identity"):
        yield body
        return
    if encoding == "x-gzip":  # its old name, which recipients should accept: RFC 9110, 8.4.1.3
        encoding = "gzip"
    if encoding not in _WINDOW_BITS:
        raise UnsupportedType(f"Content-Encoding is {encoding[:40]!r}; wanted {', '.join(_WINDOW_BITS)} or none")
    decoder = zlib.decompressobj(_WINDOW_BITS[encoding])
    loop = asyncio.get_running_loop()
    parts: list[bytes] = []
    taken, rest = 0, body
    try:
        while not decoder.eof:
            try:
                part = await loop.run_in_executor(executor, decoder.decompress, rest, _PART_BYTES)
            except zlib.error as error:
                raise MalformedBody(f"the body is not {encoding}: {error}") from None
            if not part and not decoder.eof:
                raise MalformedBody(f"the {encoding} body is cut off")
            if taken + len(part) > limit_bytes.value:
                raise BodyTooLarge(f"the body holds more bytes than the limit, which is {limit_bytes}")
            body_reader.acquire(len(part))
            taken += len(part)
            parts.append(part)
            rest = decoder.unconsumed_tail
            if decoder.unused_data and encoding == "gzip":  # gzip may have several members: RFC 1952, 2.2
                decoder, rest = zlib.decompressobj(31), decoder.unused_data
        if decoder.unused_data:
            raise MalformedBody(f"{len(decoder.unused_data)} bytes follow the end of the {encoding} body")
        yield b"".join(parts)
    finally:
        body_reader.release(taken)
