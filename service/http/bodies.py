"""Request bodies: read under limits enforced while streaming, and split into images."""

from collections.abc import Callable, Collection
from typing import Generic, TypeVar

from starlette.types import Receive, Scope

from service.errors import BodyEmpty, BodyTooLarge, MalformedBody, QueueFull, UnsupportedType
from service.http.disconnect import ClientDisconnect
from service.http.multipart import MULTIPART, Uploads, parse_multipart
from service.http.requests import get_header
from service.settings import Limit, Settings

T = TypeVar("T")


def is_form(scope: Scope) -> bool:
    """True if the body is a multipart form, by its media type."""
    return get_header(scope, b"content-type").partition(";")[0].strip().lower() == MULTIPART


class BodyReader:
    """Reads the bodies of one worker's requests, and counts the bytes they hold in total."""

    def __init__(self, settings: Settings) -> None:
        self._limit_bytes = settings.limit("body_limit_bytes")
        self._held_limit_bytes = settings.limit("held_limit_bytes")
        self._limit_images = settings.limit("images_per_request")
        self.held_bytes = 0

    def body(self, scope: Scope, receive: Receive, *, limit_bytes: Limit | None = None) -> "BodyContext[bytes]":
        """The whole body: `async with body_reader.body(...) as body`, counted as held until the block ends."""
        limit_bytes = min(limit_bytes or self._limit_bytes, self._limit_bytes)
        return BodyContext(self, scope, receive, limit_bytes, lambda body: body)

    def images(
        self, scope: Scope, receive: Receive, *, limit_images: Limit | None = None, fields: Collection[str] = ()
    ) -> "BodyContext[Uploads]":
        """The encoded images of a request: the body itself, or every file of a multipart form, in order.

        Args:
            fields: of a form, that may have values instead of files.

        Raises:
            BodyEmpty: the body is empty, or a form without files.
            MalformedBody: a multipart form that is damaged, cut off, or has a field that is neither a file nor known.
            UnsupportedType: the body is compressed as a whole.
            TooManyImages, BodyTooLarge, QueueFull, ClientDisconnect: while the body is read.
        """
        content_type = get_header(scope, b"content-type")
        if (encoding := get_header(scope, b"content-encoding").strip().lower()) not in ("", "identity"):
            raise UnsupportedType(
                f"Content-Encoding is {encoding[:40]!r}; images are compressed already, send them as is"
            )

        def images(body: bytes) -> Uploads:
            if is_form(scope):
                return parse_multipart(body, content_type, limit=limit_images or self._limit_images, fields=fields)
            if not body:
                raise BodyEmpty(f"the body is empty; send the bytes of an image, or {MULTIPART} with files")
            uploads = Uploads()
            uploads.append(body)
            return uploads

        return BodyContext(self, scope, receive, self._limit_bytes, images)

    def acquire(self, count: int) -> None:
        """Counts bytes as held.

        Raises:
            QueueFull: they exceed the limit.
        """
        if self.held_bytes + count > self._held_limit_bytes.value:
            raise QueueFull(f"{self.held_bytes} bytes of bodies are held; the limit is {self._held_limit_bytes}", 1)
        self.held_bytes += count

    def release(self, count: int) -> None:
        """Counts bytes as no longer held."""
        self.held_bytes -= count


class BodyContext(Generic[T]):
    """One body, read under the limits when the block is entered, and released when it ends."""

    def __init__(
        self, body_reader: BodyReader, scope: Scope, receive: Receive, limit_bytes: Limit, parse: Callable[[bytes], T]
    ) -> None:
        announced = get_header(scope, b"content-length") or "0"
        if not (announced.isascii() and announced.isdecimal() and len(announced) < 19):
            raise MalformedBody(f"Content-Length is {announced[:20]!r}; wanted a number")
        if int(announced) > limit_bytes.value:
            raise BodyTooLarge(f"the body has {announced} bytes; the limit is {limit_bytes}")
        self._reader, self._receive, self._limit_bytes, self._parse = body_reader, receive, limit_bytes, parse
        self._read_bytes = 0

    async def __aenter__(self) -> T:
        try:
            return self._parse(await self._read())
        except BaseException:
            self._reader.release(self._read_bytes)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._reader.release(self._read_bytes)

    async def _read(self) -> bytes:
        parts = []
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part = message.get("body", b"")
            if self._read_bytes + len(part) > self._limit_bytes.value:
                raise BodyTooLarge(f"the body has more bytes than the limit, which is {self._limit_bytes}")
            self._reader.acquire(len(part))
            self._read_bytes += len(part)
            parts.append(part)
            more = message.get("more_body", False)
        return b"".join(parts)
