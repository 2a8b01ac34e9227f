"""Reads the files of a batch: those elsewhere several at once, and again if that fails."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy.typing as npt

from models.results import ImageFailure
from service.batch.entries import Entry
from service.batch.storage import StorageFailed, read_bytes

# A file's bytes, its path, its URL in a tuple, a decoded array, why there is nothing to decode, or nothing wanted.
Encoded = bytes | str | tuple[str] | npt.NDArray[Any] | ImageFailure | None
_TRIES = 4  # to read a file elsewhere, with growing waits
_AT_ONCE = 8  # files elsewhere that a process reads ahead
_PASSING = (408, 425, 429)  # refusals of web servers that may be gone after a while


class Unreachable(OSError):
    """A file elsewhere that could not be read in several tries, for a reason that may be its store's.

    Attributes:
        elsewhere: each file may have a store of its own, as addresses in the web have.
    """

    elsewhere = False


def encoded(entry: Entry) -> Encoded:
    """What has to be read or decoded for an entry."""
    if entry.failure is not None:
        return entry.failure
    if entry.url is not None:
        if not entry.url.startswith("memory://"):
            return (entry.url,)
        try:  # only this process has it
            return read_bytes(entry.url)
        except OSError as error:
            return ImageFailure("file_unreadable", str(error))
    for content in (entry.path, entry.data, entry.pixels):
        if content is not None:
            return content
    raise AssertionError("a needed entry has content")


def content_of(source: bytes | str | tuple[str]) -> bytes:
    """The bytes of a file that are given, at a path, or at a URL.

    Raises:
        OSError: it cannot be read.
        StorageFailed: its store refuses the credentials.
    """
    if isinstance(source, tuple):
        return fetch(source[0])
    return read_bytes(source) if isinstance(source, str) else source


def fetch(url: str) -> bytes:
    """The content of a URL; tries again, with growing waits, unless the file is missing or may not be read.

    Raises:
        OSError: it cannot be read; `Unreachable` after several tries.
        StorageFailed: its store refuses the credentials.
    """
    for attempt in range(1, _TRIES + 1):
        try:
            return read_bytes(url)
        except (FileNotFoundError, PermissionError, IsADirectoryError, StorageFailed):
            raise
        except Exception as error:  # each file system has errors of its own
            status = getattr(error, "status", 0)  # of a web server
            if 400 <= status < 500 and status not in _PASSING:
                raise OSError(f"{url} cannot be read: {error}") from error
            if attempt == _TRIES:
                lost = Unreachable(f"{url} cannot be read: {error}")
                lost.elsewhere = url.startswith(("http://", "https://"))
                raise lost from error
            time.sleep(0.25 * 4**attempt)
    raise AssertionError("the last attempt returns or raises")


def read_ahead(sources: Sequence[Encoded]) -> Iterator[Encoded]:
    """The sources in their order, with the content of files elsewhere, or why there is none.

    Raises:
        StorageFailed: the store of the files refuses the credentials, or no longer answers: the last two or more could
            not be read in several tries.
    """
    if not any(isinstance(source, tuple) for source in sources):
        yield from sources
        return
    lost: list[Unreachable] = []  # since the last file that was read

    def settled(found: Encoded | Unreachable) -> Encoded:
        if isinstance(found, Unreachable):
            if not found.elsewhere:
                lost.append(found)
            return ImageFailure("file_unreadable", str(found))
        if isinstance(found, bytes | ImageFailure):
            lost.clear()
        return found

    pool, waiting = ThreadPoolExecutor(_AT_ONCE), deque[Future[Encoded | Unreachable]]()
    try:
        for source in sources:
            waiting.append(pool.submit(_fetched, source))
            if len(waiting) > _AT_ONCE:
                yield settled(waiting.popleft().result())
        while waiting:
            yield settled(waiting.popleft().result())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if len(lost) > 1:  # a job of a million images would get a million rows with errors, slowly
        raise StorageFailed(str(lost[-1])) from lost[-1]


def _fetched(source: Encoded) -> Encoded | Unreachable:
    if not isinstance(source, tuple):
        return source
    try:
        return fetch(source[0])
    except Unreachable as error:
        return error
    except OSError as error:
        return ImageFailure("file_unreadable", str(error.strerror or error))
