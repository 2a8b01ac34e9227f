"""Answers in one piece, against uvicorn's own, which are written in two."""

import asyncio
import logging

import pytest
from uvicorn.config import Config
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.process.answers import Answer

JSON = (b"content-type", b"application/json")


class Transport(asyncio.Transport):
    """Keeps what is written to it, write by write."""

    def __init__(self):
        super().__init__({"peername": ("127.0.0.1", 5), "sockname": ("127.0.0.1", 80)})
        self.written, self.closed = [], False

    def write(self, data):
        self.written.append(bytes(data))

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed

    def pause_reading(self):
        """Nothing more comes."""

    def resume_reading(self):
        """Nothing more comes."""


def start(*headers, status=200, length=None):
    found = [] if length is None else [(b"content-length", str(length).encode())]
    return {"type": "http.response.start", "status": status, "headers": [JSON, *found, *headers]}


def body(data, *, more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


def answered(monkeypatch, kind, messages, request):
    """Everything that is written for an application that sends these messages; an exception among them is raised."""

    async def application(scope, receive, send):
        for message in messages:
            if isinstance(message, Exception):
                raise message
            await send(message)

    async def run():
        config = Config(application, lifespan="off", log_config=None, access_log=False)
        config.load()
        state = ServerState()
        state.default_headers = [(b"date", b"today")]
        protocol = HttpToolsProtocol(config=config, server_state=state, app_state={})
        transport = Transport()
        protocol.connection_made(transport)
        protocol.data_received(request)
        await asyncio.gather(*state.tasks)
        kept = protocol.timeout_keep_alive_task is not None
        if kept:
            protocol.timeout_keep_alive_task.cancel()
        return transport.written, transport.closed, kept, state.total_requests

    monkeypatch.setattr(httptools_impl, "RequestResponseCycle", kind)
    return asyncio.run(run())


def get(method="GET", version="1.1", headers=""):
    return f"{method} / HTTP/{version}\r\nHost: x\r\n{headers}\r\n".encode()


SMALL = [start(length=3), body(b"abc")]
CASES = {
    "small": (SMALL, get(), 1),
    "empty": ([start(length=0), body(b"")], get(), 1),
    "an error": ([start(status=429, length=2), body(b"{}")], get(), 1),
    "no status text": ([start(status=599, length=2), body(b"{}")], get(), 1),
    "after 100 Continue": (SMALL, get("POST", headers="Expect: 100-continue\r\nContent-Length: 0\r\n"), 1),
    "one to the last request": (SMALL, get(headers="Connection: close\r\n"), 2),
    "HTTP/1.0": (SMALL, get(version="1.0"), 2),
    "one that closes": ([start((b"connection", b"close"), length=3), body(b"abc")], get(), 2),
    "large": ([start(length=2**17), body(bytes(2**17))], get(), 2),
    "of unknown length": ([start(), body(b"abc")], get(), 2),
    "in parts": ([start(length=6), body(b"abc", more=True), body(b"def")], get(), 3),
    "streamed": ([start(), body(b"abc", more=True), body(b"def")], get(), 3),
    "to HEAD": ([start(length=3), body(b"")], get("HEAD"), 1),
    "204": ([start(status=204), body(b"")], get(), 2),
    "a header with a line break": ([start((b"x", b"a\r\nb: c"), length=3), body(b"abc")], get(), 0),
    "a header with half a line break": ([start((b"x", b"a\nb"), length=3), body(b"abc")], get(), 0),
    "a header with a zero": ([start((b"x", b"a\0b"), length=3), body(b"abc")], get(), 0),
    "more than was announced": ([start(length=2), body(b"abc")], get(), 1),
    "less than was announced": ([start(length=4), body(b"abc")], get(), 2),
    "to two requests": (SMALL, get() + get(), 2),
}


@pytest.mark.parametrize(("messages", "request_bytes", "writes"), CASES.values(), ids=CASES.keys())
def test_the_bytes_are_those_of_uvicorn(monkeypatch, caplog, messages, request_bytes, writes):
    with caplog.at_level(logging.CRITICAL):
        ours, *states = answered(monkeypatch, Answer, messages, request_bytes)
        theirs, *their_states = answered(monkeypatch, RequestResponseCycle, messages, request_bytes)
    assert (b"".join(ours), states) == (b"".join(theirs), their_states)
    assert len(ours) == writes <= len(theirs)


def test_an_application_that_fails_after_its_head_gets_a_whole_answer(monkeypatch, caplog):
    with caplog.at_level(logging.CRITICAL):
        written, *_ = answered(monkeypatch, Answer, [start(length=3), RuntimeError("late")], get())
    assert b"".join(written).startswith(b"HTTP/1.1 500") and b"200 OK" not in b"".join(written)
