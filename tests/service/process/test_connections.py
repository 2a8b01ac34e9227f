"""Clients that close their sending side, and idle connections, on a real server."""

import asyncio
import os
import select
import socket
import time
from contextlib import suppress

import httpx
import pytest
import uvicorn
import uvloop
from starlette.applications import Starlette
from uvicorn.config import HTTP_PROTOCOLS, Config
from uvicorn.protocols.http import httptools_impl
from uvicorn.server import ServerState

from service.process.connections import Server, install_http_server
from service.settings import read_settings
from tests.real_server import running_server, until
from tests.service.raw_connections import IMAGE, answer_on
from tests.service.scrape import scrape, total

CHUNKED = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
GET = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"


def post(path="/v1/classify", version="1.1", headers=""):
    head = f"POST {path} HTTP/{version}\r\nHost: x\r\nContent-Length: {len(IMAGE)}\r\n{headers}\r\n"
    return head.encode() + IMAGE


def half_closed(server, request):
    """Everything that a client receives which closes its sending side after the request."""
    connection = socket.create_connection(("127.0.0.1", httpx.URL(server.url).port), timeout=60)
    connection.sendall(request)
    connection.shutdown(socket.SHUT_WR)
    return answer_on(connection)


@pytest.mark.parametrize(
    "request_bytes",
    [post(), post(headers="Connection: close\r\n"), post(version="1.0"), CHUNKED % (len(IMAGE), IMAGE), GET],
    ids=["kept", "closed", "HTTP/1.0", "chunked", "GET"],
)
def test_a_client_that_closes_its_sending_side_is_answered(server, request_bytes):
    for _ in range(20):
        answer = half_closed(server, request_bytes)
        assert answer.startswith(b"HTTP/1.1 200 OK") and answer.endswith(b"}")


def test_every_pipelined_request_before_it_is_answered(server):
    assert half_closed(server, GET + post() + GET).count(b"HTTP/1.1 200 OK") == 3


@pytest.mark.parametrize("cut", [-1, -100, 20])
def test_an_incomplete_request_is_dropped(server, cut):
    assert half_closed(server, post()[:cut]) == b""
    assert "Traceback" not in server.log


@pytest.mark.parametrize(("version", "interim"), [("1.1", b"HTTP/1.1 100 Continue\r\n\r\n"), ("1.0", b"")])
def test_an_answer_that_takes_long_follows_interim_ones(lenet_artifact, tmp_path, version, interim):
    settings = {"batch_wait_ms": 1500, "max_batch_size": 4}
    with running_server(lenet_artifact.parent.parent, tmp_path / "log", **settings) as server:
        answer = half_closed(server, post(version=version))
    assert answer.startswith(interim + b"HTTP/1.1 200 OK") and answer.endswith(b"}")


def test_a_client_that_is_gone_costs_no_inference(lenet_artifact, tmp_path):
    settings = {"batch_wait_ms": 10_000, "max_batch_size": 4, "access_log": True}
    with running_server(lenet_artifact.parent.parent, tmp_path / "log", **settings) as server:
        with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port)) as connection:
            connection.sendall(post())
        until(lambda: "POST /v1/classify 0" in server.log)
        assert total(scrape(httpx, server.url), "convscope_images_total") == 0


def test_an_idle_connection_is_closed_after_the_setting(lenet_artifact, tmp_path):
    with running_server(lenet_artifact.parent.parent, tmp_path / "log", keep_alive_s=0.2) as server:
        connection = socket.create_connection(("127.0.0.1", httpx.URL(server.url).port), timeout=60)
        connection.sendall(GET)
        assert answer_on(connection).startswith(b"HTTP/1.1 200 OK")


def test_uvicorn_takes_the_idle_time_of_the_settings(monkeypatch):
    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", HTTP_PROTOCOLS["auto"])  # all restored afterwards
    monkeypatch.setattr(httptools_impl, "RequestResponseCycle", httptools_impl.RequestResponseCycle)
    monkeypatch.setattr(uvicorn, "Server", uvicorn.Server)
    default = read_settings().keep_alive_s
    install_http_server(keep_alive_s=default, workers=1)
    config = Config(Starlette())
    config.load()
    loop = asyncio.new_event_loop()
    connection = config.http_protocol_class(config=config, server_state=ServerState(), app_state={}, _loop=loop)
    loop.close()
    assert connection.timeout_keep_alive == default > 60


@pytest.mark.parametrize("sent", [b"", b"GET /v1/models HTTP/1.1\r\nHost:", GET + b"GET /v1"])
@pytest.mark.parametrize("slowly", [False, True])
def test_a_connection_without_a_whole_request_is_closed(impatient, sent, slowly):
    with socket.create_connection(("127.0.0.1", httpx.URL(impatient.url).port), timeout=20) as connection:
        began = time.monotonic()
        connection.sendall(sent)
        while not select.select([connection], [], [], 0.2)[0] or connection.recv(65_536):
            with suppress(OSError):  # closed meanwhile
                connection.send(b"x" if slowly and sent else b"")
            assert time.monotonic() - began < 8
        assert time.monotonic() - began > 0.9


@pytest.fixture(scope="module")
def impatient(lenet_artifact, tmp_path_factory):
    """A server that waits for a second."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    with running_server(lenet_artifact.parent.parent, log, keep_alive_s=1) as running:
        yield running


def iterations_until_accepted(kind, clients):
    """Iterations of uvloop's event loop in which a server accepts connections that are complete before the first."""

    async def run():
        listener = socket.create_server(("127.0.0.1", 0), backlog=clients)
        server = kind(uvicorn.Config(Starlette(), lifespan="off", log_config=None))
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup([listener])
        address = listener.getsockname()
        opened = [socket.create_connection(address) for _ in range(clients)]
        iterations = 0
        while len(server.server_state.connections) < clients:
            await asyncio.sleep(0)
            iterations += 1
        for connection in opened:
            connection.close()
        await server.shutdown([listener])
        with pytest.raises(ConnectionRefusedError):  # no duplicate goes on listening
            socket.create_connection(address)
        return iterations

    return uvloop.run(run())


def test_many_connections_are_accepted_in_few_iterations():
    ours, theirs = (iterations_until_accepted(kind, 64) for kind in (Server, uvicorn.Server))
    assert ours <= 8 and theirs >= 64


@pytest.mark.parametrize("workers", [1, 2])
def test_only_a_single_worker_accepts_many_at_once(monkeypatch, workers):
    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", HTTP_PROTOCOLS["auto"])
    monkeypatch.setattr(httptools_impl, "RequestResponseCycle", httptools_impl.RequestResponseCycle)
    monkeypatch.setattr(uvicorn, "Server", uvicorn.Server)
    install_http_server(keep_alive_s=1, workers=workers)
    assert (uvicorn.Server is Server) == (workers == 1)


def test_a_worker_that_starts_leaves_the_socket_of_the_others_as_it_is(monkeypatch):
    seen = []

    async def startup(self, sockets):
        for one in sockets:
            seen.append((os.get_blocking(one.fileno()), one.getsockname()))
            one.close()

    monkeypatch.setattr(Server.__base__, "startup", startup)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)  # as another worker has set it
        address = listener.getsockname()
        given = socket.socket(fileno=os.dup(listener.fileno()))  # as BentoML opens it, unaware of this
        asyncio.run(Server(uvicorn.Config(Starlette(), log_config=None)).startup([given]))
    assert seen == [(False, address)] * 16
