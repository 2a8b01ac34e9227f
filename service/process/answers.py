"""Answers of the HTTP server that are sent in one piece."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

_LIMIT_BYTES = 2**16  # copying more takes longer than a second system call
_SPECIAL_HEADERS = frozenset((b"connection", b"transfer-encoding"))


class Answer(RequestResponseCycle):
    """uvicorn's answer to one request, but a small one of known length is one system call and one packet.

    uvicorn writes head and body apart, and searches each header for characters that it must not contain. Here the head
    waits for the body. Large and streamed answers, and the last of a connection, are left to uvicorn.
    """

    _start: Any = None  # the message with status and headers, until the body follows

    async def send(self, message: Any) -> None:
        """See the ASGI specification, which also fixes the order of the messages."""
        if message["type"] == "http.response.start":
            if not self.response_started and b"content-length" in dict(message["headers"]):
                self._start = message
                return
        elif (start := self._start) is not None:
            self._start = None
            if (whole := self._in_one_piece(start, message)) is not None:
                self.response_started = self.response_complete = True
                self.waiting_for_100_continue = False
                self.transport.write(whole)
                self.message_event.set()
                self.on_response()
                return
            await super().send(start)
        await super().send(message)

    def _in_one_piece(self, start: Any, message: Any) -> bytes | None:
        """Head and body; None if uvicorn must send them."""
        body = message.get("body", b"")
        paused = self.flow.write_paused or self.disconnected
        if paused or message.get("more_body") or len(body) > _LIMIT_BYTES or not self.keep_alive:
            return None
        headers = (*self.default_headers, *start["headers"])
        pieces = [STATUS_LINE[start["status"]]]
        length = b"%d" % len(body)
        for name, value in headers:
            if name in _SPECIAL_HEADERS or (name == b"content-length" and value != length):
                return None  # to a HEAD request there is a length without a body
            pieces += (name, b": ", value, b"\r\n")
        head = b"".join(pieces)
        if head.count(b"\n") + head.count(b"\r") != 2 * len(headers) + 2 or b"\0" in head:
            return None  # a header with a line break, which uvicorn refuses
        return b"%b\r\n%b" % (head, body)
