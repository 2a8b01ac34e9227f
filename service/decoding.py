"""Decoding uploads: small ones on the event loop, larger ones in threads."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor

from models.inputs import ImageError, InputSpec, Pixels, decode_image

INLINE_LIMIT_BYTES = 4096  # an MNIST digit as PNG takes 300 bytes and 50 us, which is less than a thread's hop


def decode_or_error(data: bytes, spec: InputSpec, limit_pixels: int) -> Pixels | ImageError:
    """The decoded image, or the error as a value, so that one bad image among many fails alone."""
    try:
        return decode_image(data, spec, limit_pixels=limit_pixels)
    except ImageError as error:
        return error


async def decode_uploads(
    uploads: Sequence[bytes], spec: InputSpec, *, limit_pixels: int, executor: Executor
) -> list[Pixels | ImageError]:
    """Decodes all images of a request.

    Returns:
        For each a uint8 array (H, W, C) of `spec`, or what is wrong with it.
    """
    if len(uploads) == 1 and len(uploads[0]) <= INLINE_LIMIT_BYTES:
        return [decode_or_error(uploads[0], spec, limit_pixels)]
    loop = asyncio.get_running_loop()
    decoding = [loop.run_in_executor(executor, decode_or_error, data, spec, limit_pixels) for data in uploads]
    return await asyncio.gather(*decoding)
