"""Request bodies: read under a limit that is enforced while they stream, and taken apart into images."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from service.errors import BodyEmpty, BodyTooLarge, MalformedBody, TooManyImages


class ClientGone(Exception):
    """The client hung up before its body was complete; nobody waits for an answer."""


def limited(scope: Scope, receive: Receive, limit_bytes: int) -> Receive:
    """A `receive` that stops at `limit_bytes`, before reading if the header announces more.

    Raises:
        BodyTooLarge: now, or from the returned callable.
        MalformedBody: the announced length is not a number.
        ClientGone: from the returned callable.
    """
    announced = Headers(scope=scope).get("content-length", "0")
    if not announced.isdecimal():
        raise MalformedBody(f"Content-Length is {announced!r}; wanted a number")
    if int(announced) > limit_bytes:
        raise BodyTooLarge(f"the body has {announced} bytes; the limit is {limit_bytes}")
    seen = 0

    async def receive_limited() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        seen += len(message.get("body", b""))
        if seen > limit_bytes:
            raise BodyTooLarge(f"the body has more than {limit_bytes} bytes, which is the limit")
        return message

    return receive_limited


async def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """The whole body.

    Raises:
        BodyTooLarge, MalformedBody, ClientGone: see `limited`.
    """
    receive = limited(scope, receive, limit_bytes)
    message = await receive()
    if not message.get("more_body"):
        return bytes(message.get("body", b""))
    parts = [message.get("body", b"")]
    while message.get("more_body"):
        message = await receive()
        parts.append(message.get("body", b""))
    return b"".join(parts)


async def read_images(scope: Scope, receive: Receive, *, limit_bytes: int, limit_images: int) -> Sequence[bytes]:
    """The encoded images of a request: the body itself, or every file of a multipart form, in order.

    Raises:
        BodyEmpty: no bytes, or a form without files.
        MalformedBody: not the multipart form it says it is, or a field that is not a file.
        TooManyImages, BodyTooLarge, ClientGone: see there.
    """
    content_type = Headers(scope=scope).get("content-type", "")
    if not content_type.startswith("multipart/form-data"):
        body = await read_body(scope, receive, limit_bytes)
        if not body:
            raise BodyEmpty("the body is empty; send the bytes of an image, or multipart/form-data with files")
        return [body]
    request = Request(scope, limited(scope, receive, limit_bytes))
    try:
        # One more than allowed, so that the error can be ours; fields are not expected at all.
        form = await request.form(max_files=limit_images + 1, max_fields=1, max_part_size=1024)
    except HTTPException as error:
        if error.detail.startswith("Too many files"):
            raise _too_many(limit_images) from None
        raise MalformedBody(f"multipart/form-data: {error.detail}") from None
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
    if len(images) > limit_images:
        raise _too_many(limit_images)
    return images


def _too_many(limit: int) -> TooManyImages:
    return TooManyImages(f"the form has more than {limit} images, which is the limit of one request")
