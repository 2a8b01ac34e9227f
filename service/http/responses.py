"""Answers sent as bare ASGI messages."""

from collections.abc import Iterable

from starlette.types import Send

from models.images.errors import ImageError
from service.errors import RequestError, error_answer
from service.telemetry.request_context import current


async def send_body(
    send: Send, status: int, body: bytes, content_type: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Sends a whole answer."""
    start = {
        "type": "http.response.start",
        "status": status,
        "headers": [
            (b"content-type", content_type),
            (b"content-length", str(len(body)).encode()),
            *headers,
        ],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Sends JSON that is already encoded."""
    await send_body(send, status, body, b"application/json", headers)


async def send_error(send: Send, error: RequestError | ImageError, path: str) -> None:
    """Sends an error in the shape that all routes like `path` share."""
    current().fail(error.code, str(error))
    status, body, headers = error_answer(error, path)
    await send_json(send, status, body, headers)
