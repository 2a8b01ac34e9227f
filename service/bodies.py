"""Request bodies: read under limits that are enforced while they stream, and taken apart into images."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from service.errors import BodyEmpty, BodyTooLarge, MalformedBody, QueueFull, TooManyImages
from service.settings import Settings

_FORM = "multipart/form-data"


class ClientGone(Exception):
    """The client hung up before its body was complete; nobody waits for an answer."""


class Bodies:
    """Reads the bodies of one worker's requests, and knows how many bytes they hold together."""

    def __init__(self, settings: Settings) -> None:
        self._limit_bytes = settings.body_limit_bytes
        self._held_limit_bytes = settings.held_limit_bytes
        self._limit_images = settings.images_per_request
        self.held_bytes = 0

    @asynccontextmanager
    async def body(self, scope: Scope, receive: Receive, *, limit_bytes: int | None = None) -> AsyncIterator[bytes]:
        """The whole body, counted as held until the block ends.

        Raises:
            BodyTooLarge, QueueFull, MalformedBody, ClientGone: see there.
        """
        stream = _Stream(self, scope, receive, min(limit_bytes or self._limit_bytes, self._limit_bytes))
        try:
            yield await stream.read()
        finally:
            stream.release()

    @asynccontextmanager
    async def images(
        self, scope: Scope, receive: Receive, *, limit_images: int | None = None
    ) -> AsyncIterator[Sequence[bytes]]:
        """The encoded images of a request: the body itself, or every file of a multipart form, in order.

        Raises:
            BodyEmpty: no bytes, or a form without files.
            MalformedBody: not the multipart form it says it is, cut off, or with a field that is not a file.
            TooManyImages, BodyTooLarge, QueueFull, ClientGone: see there.
        """
        stream = _Stream(self, scope, receive, self._limit_bytes)
        try:
            content_type = Headers(scope=scope).get("content-type", "")
            if content_type.partition(";")[0].strip().lower() == _FORM:
                yield await _form_images(scope, stream, limit_images or self._limit_images)
            elif body := await stream.read():
                yield [body]
            else:
                raise BodyEmpty(f"the body is empty; send the bytes of an image, or {_FORM} with files")
        finally:
            stream.release()

    def take(self, count: int) -> None:
        """Counts bytes as held.

        Raises:
            QueueFull: they do not fit any more.
        """
        if self.held_bytes + count > self._held_limit_bytes:
            raise QueueFull(f"bodies of {self._held_limit_bytes} bytes are being read, which is the limit", 1)
        self.held_bytes += count

    def give_back(self, count: int) -> None:
        """Counts bytes as no longer held."""
        self.held_bytes -= count


class _Stream:
    """One body as it arrives; `receive` is the ASGI callable with the limits in it."""

    def __init__(self, bodies: Bodies, scope: Scope, receive: Receive, limit_bytes: int) -> None:
        announced = Headers(scope=scope).get("content-length", "0")
        if not (announced.isascii() and announced.isdecimal() and len(announced) < 19):
            raise MalformedBody(f"Content-Length is {announced[:20]!r}; wanted a number")
        if int(announced) > limit_bytes:
            raise BodyTooLarge(f"the body has {announced} bytes; the limit is {limit_bytes}")
        self._bodies, self._receive, self._limit_bytes = bodies, receive, limit_bytes
        self._taken = 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        if self._taken + len(part) > self._limit_bytes:
            raise BodyTooLarge(f"the body has more than {self._limit_bytes} bytes, which is the limit")
        self._bodies.take(len(part))
        self._taken += len(part)
        return message

    async def read(self) -> bytes:
        message = await self.receive()
        if not message.get("more_body"):
            return bytes(message.get("body", b""))
        parts = [message.get("body", b"")]
        while message.get("more_body"):
            message = await self.receive()
            parts.append(message.get("body", b""))
        return b"".join(parts)

    def release(self) -> None:
        self._bodies.give_back(self._taken)
        self._taken = 0


async def _form_images(scope: Scope, stream: _Stream, limit: int) -> Sequence[bytes]:
    body = await stream.read()
    if not body.rstrip().endswith(b"--"):
        raise MalformedBody(f"{_FORM}: the closing boundary is missing, so the form was cut off")
    request = Request(scope, _replay(body))
    too_many = TooManyImages(f"the form has more than {limit} images, which is the limit of one request")
    try:
        # One file more than allowed, so that the error can be ours; fields are not expected at all.
        form = await request.form(max_files=limit + 1, max_fields=1, max_part_size=1024)
    except HTTPException as error:
        if error.detail.startswith("Too many files"):
            raise too_many from None
        raise MalformedBody(f"{_FORM}: {error.detail}") from None
    except (ValueError, LookupError) as error:  # names in an encoding that does not exist or does not fit
        raise MalformedBody(f"{_FORM}: {error}") from None
    try:
        images = []
        for name, part in form.multi_items():
            if isinstance(part, str):
                raise MalformedBody(f"the form field {name!r} is text; send files only, and options in the query")
            images.append(await part.read())
    finally:
        await form.close()
    if not images:
        raise BodyEmpty("the form has no files")
    if len(images) > limit:
        raise too_many
    return images


def _replay(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
