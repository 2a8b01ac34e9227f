"""Server-sent events: a response that reports how far its work is, and ends with the result."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from models.images.errors import ImageError
from service.errors import RequestError, error_body
from service.http.deadline import Deadline
from service.http.disconnect import cancel_on_disconnect
from service.http.requests import get_header
from service.telemetry.metrics import INTERNAL
from service.telemetry.request_context import current

EVENT_STREAM = "text/event-stream"
Report = Callable[[dict[str, Any]], None]


def wants_events(scope: Scope) -> bool:
    """True if the client asks for an event stream."""
    return get_header(scope, b"accept").partition(";")[0].strip().lower() == EVENT_STREAM


def encode_event(name: str, data: bytes) -> bytes:
    """One event; `data` is JSON, which has no line breaks."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


class EventStream:
    """Events `progress`, then one `result` or one `error` with the body that an answer without events has.

    Args:
        work: takes a function that reports progress, callable from any thread, and returns the result as JSON.
        held: what ends with the response.
        deadline: the work is cancelled then.
    """

    def __init__(self, work: Callable[[Report], Awaitable[bytes]], held: AsyncExitStack, deadline: Deadline) -> None:
        self._work, self._held, self._deadline = work, held, deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events; raises ClientDisconnect if the client goes, and the work is cancelled."""
        headers = [(b"content-type", EVENT_STREAM.encode()), (b"cache-control", b"no-store")]
        async with self._held:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await cancel_on_disconnect(asyncio.ensure_future(self._send_events(send)), receive)

    async def _send_events(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        latest: dict[str, Any] = {}
        changed = asyncio.Event()

        def note(progress: dict[str, Any]) -> None:
            latest.update(progress)
            changed.set()

        working = asyncio.ensure_future(self._finished(lambda one: _call(loop, note, one)))
        working.add_done_callback(lambda _: changed.set())
        try:
            while not working.done():
                await changed.wait()
                changed.clear()
                if latest and not working.done():  # of several in one turn of the loop the last is enough
                    await _send(send, encode_event("progress", orjson.dumps(latest)))
            await _send(send, working.result(), more=False)
        finally:
            working.cancel()

    async def _finished(self, report: Report) -> bytes:
        try:
            with self._deadline.limit():
                return encode_event("result", await self._work(report))
        except (RequestError, ImageError) as error:
            current().fail(error.code, str(error))
            return _error_event(error_body(error))
        except Exception as error:
            message = "the server failed on this request; its log says why"
            current().fail(INTERNAL, message, error)
            return _error_event({"code": INTERNAL, "message": message})


def _call(loop: asyncio.AbstractEventLoop, note: Report, progress: dict[str, Any]) -> None:
    if not loop.is_closed():  # the work may go on for a batch after a server's end
        loop.call_soon_threadsafe(note, progress)


def _error_event(error: dict[str, Any]) -> bytes:
    return encode_event("error", orjson.dumps({"error": error}))


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
