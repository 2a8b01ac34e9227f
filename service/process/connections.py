"""Connections of the HTTP server: how many are accepted at once, how long an idle one stays open, and clients that
close their sending side.

BentoML creates uvicorn's server and its configuration itself, without an option for any of these, so subclasses of
uvicorn's server and protocol take the place of its own.
"""

import asyncio
import os
import socket
from typing import Any

import uvicorn
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.process.answers import Answer

_PROBE_S = 1.0
_FIRST_S = 1.0  # that a new connection has for its first request when the server ends
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_ACCEPTED_AT_ONCE = 16  # by a single worker; of several, the first to wake would take nearly all connections


def install_http_server(*, keep_alive_s: float, workers: int) -> None:
    """Makes `Server`, `Connection` and `Answer` the server, protocol and answers of what this process then starts.

    Args:
        keep_alive_s: how long a connection stays open between two requests.
        workers: the processes that share the listening socket.
    """

    def connect(**options: Any) -> Connection:
        return Connection(keep_alive_s=keep_alive_s, **options)

    HTTP_PROTOCOLS["auto"] = connect  # type: ignore[assignment]  # uvicorn imports names, and takes other objects as is
    httptools_impl.RequestResponseCycle = Answer  # type: ignore[misc]  # looked up there for each request
    if workers == 1:
        uvicorn.Server = Server  # type: ignore[misc]


class Server(uvicorn.Server):
    """uvicorn's server, but it accepts several connections in one iteration of the event loop.

    uvloop accepts one for each listening socket, and answers all requests that have arrived on other connections before
    the next. So the last of 128 connections waited for 128 iterations, and clients that open a connection for each
    request were answered one by one, in batches of one image. Duplicates of the socket are polled like further ones.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts listening, on each socket several times."""
        if sockets is not None:
            sockets = [one for given in sockets for one in (given, *_duplicates(given, _ACCEPTED_AT_ONCE - 1))]
        await super().startup(sockets)


def _duplicates(listener: socket.socket, count: int) -> list[socket.socket]:
    # Not `listener.dup()`, which makes it blocking for all that share it: another worker would wait in its next accept.
    return [socket.socket(fileno=os.dup(listener.fileno())) for _ in range(count)]


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

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins the time in which the first request must have come."""
        super().connection_made(transport)
        self._close_later(self.loop.time() + self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        """Goes on with that time until the head of a request is complete; uvicorn ends it with the first byte."""
        idle = self.timeout_keep_alive_task
        super().data_received(data)
        if idle and self.timeout_keep_alive_task is None and (self.cycle is None or self.cycle.response_complete):
            self._close_later(idle.when())

    def _close_later(self, when: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_at(when, self.timeout_keep_alive_handler)

    def eof_received(self) -> bool:  # type: ignore[override]  # None is the same as False
        """Keeps the connection open for the answer if a complete request is unanswered; not with TLS."""
        cycle = self.cycle
        if self.scheme != "http" or cycle is None or cycle.more_body or cycle.response_complete:
            return False
        cycle.keep_alive = False
        self._probe = self.loop.call_later(_PROBE_S, self._detect_reset)
        return True

    def shutdown(self) -> None:
        """Ends the connection when its requests are answered. A new one may still send the first: closing resets it."""
        if self.cycle is None:
            self.loop.call_later(_FIRST_S, super().shutdown)
        else:
            super().shutdown()

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
