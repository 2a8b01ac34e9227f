"""Request bodies: read under limits enforced while streaming, and split into images."""

from collections.abc import Awaitable, Callable, Collection
from typing import Generic, TypeVar

from starlette.types import Receive, Scope

from models.images.header import has_signature
from service.errors import BodyEmpty, BodyTooLarge, MalformedBody, QueueFull, UnsupportedType
from service.http.disconnect import ClientDisconnect
from service.http.json_images import parse_json_images
from service.http.multipart import MULTIPART, Uploads, parse_multipart
from service.http.not_an_image import URL_ENCODED, check_body
from service.http.requests import get_header, media_type_of
from service.settings import Limit, Settings

T = TypeVar("T")
Hold = Callable[[int], None]
_JSON = ("application/json", "text/json")
# Clients send JSON under these too: curl -d, fetch with a string, requests with data=json.dumps(...).
_MAYBE_JSON = (*_JSON, URL_ENCODED, "text/plain", "")
_JSON_STARTS = (b"{", b"[", b'"')


def may_hold_options(scope: Scope) -> bool:
    """True if the body may be a form or JSON, by its media type; both may have options beside the images."""
    return media_type_of(scope) in (MULTIPART, *_MAYBE_JSON)


def is_json(body: bytes, media_type: str) -> bool:
    """True for JSON, by its media type or its first character; image files are never taken for it."""
    start = body[:64].removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if media_type in _JSON:
        return start in _JSON_STARTS or not has_signature(body)
    return start in _JSON_STARTS[:2] and media_type in _MAYBE_JSON


class BodyReader:
    """Reads the bodies of one worker's requests, and counts the bytes they hold in total."""

    def __init__(self, settings: Settings) -> None:
        self._limit_bytes = settings.limit("body_limit_bytes")
        self._held_limit_bytes = settings.limit("held_limit_bytes")
        self._limit_json_bytes = settings.limit("json_limit_bytes")
        self._limit_images = settings.limit("images_per_request")
        self.held_bytes = 0

    def body(self, scope: Scope, receive: Receive, *, limit_bytes: Limit | None = None) -> "BodyContext[bytes]":
        """The whole body: `async with body_reader.body(...) as body`, counted as held until the block ends."""
        limit_bytes = min(limit_bytes or self._limit_bytes, self._limit_bytes)

        async def whole(body: bytes, hold: Hold) -> bytes:
            return body

        return BodyContext(self, scope, receive, limit_bytes, whole)

    def images(
        self, scope: Scope, receive: Receive, *, limit_images: Limit | None = None, fields: Collection[str] = ()
    ) -> "BodyContext[Uploads]":
        """The encoded images of a request: the body itself, every file of a multipart form in order, or JSON's base64.

        Args:
            fields: of a form or JSON, that may have values instead of images.

        Raises:
            BodyEmpty: the body is empty, or a form or JSON without images.
            MalformedBody: a form or JSON that is damaged, cut off, or has a field that is neither an image nor known.
            NotAnImage: a text that stands for an image, such as a `data:` URL.
            UnsupportedType: the body is compressed as a whole.
            TooManyImages, BodyTooLarge, QueueFull, ClientDisconnect: while the body is read.
        """
        content_type = get_header(scope, b"content-type")
        if (encoding := get_header(scope, b"content-encoding").strip().lower()) not in ("", "identity"):
            raise UnsupportedType(
                f"Content-Encoding is {encoding[:40]!r}; images are compressed already, send them as is"
            )

        media_type, limit = media_type_of(scope), limit_images or self._limit_images

        async def images(body: bytes, hold: Hold) -> Uploads:
            if media_type == MULTIPART:
                return parse_multipart(body, content_type, limit=limit, fields=fields)
            if not body:
                raise BodyEmpty(f"the body is empty; send the bytes of an image, or {MULTIPART} with files")
            if is_json(body, media_type):
                uploads = await parse_json_images(body, limit=limit, limit_bytes=self._limit_json_bytes, fields=fields)
                hold(sum(map(len, uploads)))
                return uploads
            check_body(body, media_type)
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
    """One body, read under the limits when the block is entered, and released when it ends.

    Args:
        parse: gets the body, and a function that counts further bytes as held. It must not refer to the context: such
            a circle in each request would be left to the garbage collector, which stops the worker for a tenth of a
            second then.
    """

    def __init__(
        self,
        body_reader: BodyReader,
        scope: Scope,
        receive: Receive,
        limit_bytes: Limit,
        parse: Callable[[bytes, Hold], Awaitable[T]],
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
            return await self._parse(await self._read(), self.hold)
        except BaseException:
            self._reader.release(self._read_bytes)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._reader.release(self._read_bytes)

    def hold(self, count: int) -> None:
        """Counts further bytes as held until the block ends."""
        self._reader.acquire(count)
        self._read_bytes += count

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
            self.hold(len(part))
            parts.append(part)
            more = message.get("more_body", False)
        return b"".join(parts)
