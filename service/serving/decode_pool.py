"""Decodes uploads: small ones on the event loop, larger ones in threads."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import cached_property
from typing import ParamSpec, TypeVar

import numpy as np

from models.images.decode import Pixels, decode_image
from models.images.errors import ImageError, ImageTooLarge
from models.images.input_spec import InputSpec
from models.images.jpeg import jpeg_header
from models.images.png import png_header
from service.errors import forget_frames
from service.settings import Limit
from service.telemetry.request_context import current

# A small file can hold a huge image, so both must be small. An MNIST digit as PNG takes 300 bytes and 10 us.
INLINE_LIMIT_BYTES = 4096
INLINE_LIMIT_PIXELS = 65_536
STACKING_LIMIT_BYTES = 2**20  # copying more takes longer than switching to a thread

P = ParamSpec("P")
T = TypeVar("T")


class Decoders(Executor):
    """Decoding threads, created on first use, when the models' devices are known.

    Args:
        count: returns the number of threads.
    """

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count

    @cached_property
    def threads(self) -> ThreadPoolExecutor:
        """The underlying pool."""
        return ThreadPoolExecutor(self._count(), thread_name_prefix="decode")

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """See `Executor.submit`."""
        return self.threads.submit(fn, *args, **kwargs)


def decode_upload(data: bytes, spec: InputSpec, limit_pixels: Limit, notes: list[str] | None = None) -> Pixels:
    """The decoded image, uint8 (H, W, C) of `spec`.

    Args:
        notes: gets sentences about what is suspicious; see `decode_image`.

    Raises:
        ImageError: it cannot be decoded; the message about one over the limit names the setting.
    """
    try:
        return decode_image(data, spec, limit_pixels=limit_pixels.value, notes=notes)
    except ImageError as error:
        raise _with_setting_name(error, limit_pixels) from None


def decode_or_error(
    data: bytes, spec: InputSpec, limit_pixels: Limit, notes: list[str] | None = None
) -> Pixels | ImageError:
    """The decoded image, or the error as a value, so that one bad image among many fails alone."""
    try:
        return decode_upload(data, spec, limit_pixels, notes)
    except ImageError as error:
        forget_frames(error)
        return error


async def decode_uploads(
    uploads: Sequence[bytes],
    spec: InputSpec,
    *,
    limit_pixels: Limit,
    executor: Executor,
    notes: Sequence[list[str]] | None = None,
) -> list[Pixels | ImageError]:
    """Decodes all images of a request.

    Args:
        notes: a list for each image, which gets sentences about what is suspicious.

    Returns:
        For each a uint8 array (H, W, C) of `spec`, or its error.
    """
    started = time.perf_counter()
    try:
        if len(uploads) == 1 and len(uploads[0]) <= INLINE_LIMIT_BYTES and _is_small(uploads[0]):
            return [decode_or_error(uploads[0], spec, limit_pixels, _at(notes, 0))]
        loop = asyncio.get_running_loop()
        decoding = [
            loop.run_in_executor(executor, decode_or_error, data, spec, limit_pixels, _at(notes, index))
            for index, data in enumerate(uploads)
        ]
        return await asyncio.gather(*decoding)
    finally:
        current().decode_s += time.perf_counter() - started


async def stack_images(images: Sequence[Pixels], executor: Executor) -> Pixels:
    """Stacks the images (H, W, C) of a request: a single one without a copy, many megabytes in a thread."""
    if len(images) == 1:
        return images[0][np.newaxis]
    if len(images) * images[0].nbytes <= STACKING_LIMIT_BYTES:
        return np.stack(images)
    return await asyncio.get_running_loop().run_in_executor(executor, np.stack, images)


def _at(notes: Sequence[list[str]] | None, index: int) -> list[str] | None:
    return None if notes is None else notes[index]


def _is_small(data: bytes) -> bool:
    if png := png_header(data):
        return png[0] * png[1] <= INLINE_LIMIT_PIXELS
    jpeg = jpeg_header(data)
    return jpeg is not None and jpeg.width * jpeg.height <= INLINE_LIMIT_PIXELS


def _with_setting_name(error: ImageError, limit_pixels: Limit) -> ImageError:
    return ImageTooLarge(f"{error} ({limit_pixels.setting})") if type(error) is ImageTooLarge else error
