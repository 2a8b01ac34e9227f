"""Connections of the HTTP server: how long an idle one stays open, and clients that close their sending side.

BentoML creates uvicorn's configuration itself, without an option for either, so a subclass of uvicorn's protocol takes
the place of its default.
"""

import asyncio
from typing import Any

from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.process.answers import Answer

_PROBE_S = 1.0
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def install_protocol(*, keep_alive_s: float) -> None:
    """Makes `Connection` the protocol of the servers that this process then configures, with `Answer` for its answers.

    Args:
        keep_alive_s: how long a connection stays open between two requests.
    """

    def connect(**options: Any) -> Connection:
        return Connection(keep_alive_s=keep_alive_s, **options)

    HTTP_PROTOCOLS["auto"] = connect  # type: ignore[assignment]  # uvicorn imports names, and takes other objects as is
    httptools_impl.RequestResponseCycle = Answer  # type: ignore[misc]  # looked up there for each request


class Connection(HttpToolsProtocol):
    """uvicorn's connection, but it answers clients that close their sending side once their request is complete.

    TCP does not distinguish such a client from one that is gone: both send an end of stream. The host of the latter
    resets the connection when it receives anything further. So an answer that takes long is preceded by `100 Continue`,
    which clients discard (RFC 9110, section 15.2.1), and the work for clients that are gone is cancelled.
    """

    def __init__(self, *, keep_alive_s: float, **options: Any) -> None:
        super().__init__(**options)
        self.timeout_keep_alive = keep_alive_s  # type: ignore[assignment]  # any number of seconds
        self._probe: asyncio.TimerHandle | None = None

    def eof_received(self) -> bool:  # type: ignore[override]  # None is the same as False
        """Keeps the connection open for the answer if a complete request is unanswered; not with TLS."""
        cycle = self.cycle
        if self.scheme != "http" or cycle is None or cycle.more_body or cycle.response_complete:
            return False
        cycle.keep_alive = False
        self._probe = self.loop.call_later(_PROBE_S, self._detect_reset)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the detection."""
        if self._probe:
            self._probe.cancel()
        super().connection_lost(exc)

    def _detect_reset(self) -> None:
        # Streamed answers detect it themselves, HTTP/1.0 has no interim answers.
        if self.cycle.scope["http_version"] == "1.1" and not (self.cycle.response_started or self.pipeline):
            self.transport.write(_CONTINUE)
        self._probe = self.loop.call_later(_PROBE_S, self._detect_reset)
