"""A real server with two workers that is told to end loses no request."""

import signal
import socket
import threading
import time
from http.client import HTTPConnection, HTTPException

import httpx
import psutil
import pytest

from tests.real_server import running_server, until
from tests.service.raw_connections import IMAGE, answer_on, half_sent


def test_what_was_begun_is_answered_and_readiness_ends_first(lenet_artifact, tmp_path):
    with running_server(lenet_artifact.parent.parent, tmp_path / "log", workers=2, drain_s=2) as server:
        port = httpx.URL(server.url).port
        begun = [half_sent(port) for _ in range(8)]
        seen, ready = [], []

        def ask():
            while True:
                try:
                    ready.append(httpx.get(f"{server.url}/readyz").status_code)
                    seen.append(httpx.post(f"{server.url}/v1/classify", content=IMAGE).status_code)
                except httpx.HTTPError as error:
                    seen.append(type(error).__name__)
                    return

        asking = threading.Thread(target=ask)
        asking.start()
        while len(seen) < 20:
            time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        while 503 not in ready:
            time.sleep(0.01)
        unready_at = len(seen)
        assert httpx.get(f"{server.url}/readyz").json()["error"]["message"] == "the server is shutting down"
        late = half_sent(port)  # begun while the server is unready already
        while server.process.poll() is None and "Waiting for" not in server.log and asking.is_alive():
            time.sleep(0.05)
        for connection in [*begun, late]:
            connection.sendall(IMAGE[-1:])
            assert answer_on(connection).startswith(b"HTTP/1.1 200 OK")
        assert server.process.wait(timeout=60) == 0
        asking.join()
    assert set(seen[:-1]) == {200}  # the last found nobody any more
    assert len(seen) - unready_at > 5  # and many were answered while /readyz said that it ends
    assert "Traceback" not in server.log


@pytest.mark.parametrize(("workers", "drain_s"), [(1, 0), (2, 0.5)])
def test_no_client_with_persistent_connections_loses_a_request(lenet_artifact, tmp_path, workers, drain_s):
    """They leave as their answers say, and a new connection is answered or refused, but never reset."""
    ended = []

    def ask():
        connection = None
        while True:
            try:
                connection = connection or HTTPConnection("127.0.0.1", httpx.URL(server.url).port, timeout=60)
                if connection.sock is None:
                    connection.connect()
            except ConnectionRefusedError:
                ended.append("refused")
                return
            try:
                connection.request("POST", "/v1/classify", IMAGE)
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200
            except (OSError, HTTPException, AssertionError) as error:
                ended.append(f"lost: {error!r}")
                return
            asked.append(answer.getheader("connection"))
            if answer.getheader("connection") == "close":
                connection = None

    settings = {"workers": workers, "drain_s": drain_s}
    with running_server(lenet_artifact.parent.parent, tmp_path / "log", **settings) as server:
        asked: list[str | None] = []
        clients = [threading.Thread(target=ask) for _ in range(8)]
        for client in clients:
            client.start()
        until(lambda: len(asked) > 200 or ended)
        assert not any(asked)
        server.process.send_signal(signal.SIGTERM)
        for client in clients:
            client.join()
        assert server.process.wait(timeout=60) == 0
    assert ended == ["refused"] * 8
    assert "close" in asked


def test_a_new_connection_may_still_send_its_request(lenet_artifact, tmp_path):
    with running_server(lenet_artifact.parent.parent, tmp_path / "log") as server:
        port = httpx.URL(server.url).port
        fresh, silent = (socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(2))
        with fresh, silent:
            time.sleep(0.3)  # until they are accepted
            server.process.send_signal(signal.SIGTERM)
            until(lambda: "unready; ends in 0 s" in server.log)
            time.sleep(0.4)  # until uvicorn has ended idle connections
            fresh.sendall(
                b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(IMAGE), IMAGE)
            )
            assert answer_on(fresh).startswith(b"HTTP/1.1 200 OK")
            assert silent.recv(1) == b"" and server.process.wait(timeout=60) == 0


@pytest.mark.acceptance
def test_one_worker_that_is_told_to_end_leaves_the_others_reachable(lenet_artifact, tmp_path):
    with running_server(lenet_artifact.parent.parent, tmp_path / "log", workers=2) as server:
        until(lambda: server.log.count("Service convscope initialized") == 2)
        first, _ = psutil.Process(server.process.pid).children()
        first.terminate()
        psutil.wait_procs([first], timeout=60)
        with httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), timeout=60) as client:
            for _ in range(20):
                assert client.post(f"{server.url}/v1/classify", content=IMAGE).status_code == 200
        until(lambda: server.log.count("Service convscope initialized") == 3)
        for worker in psutil.Process(server.process.pid).children():
            worker.terminate()  # both: connections wait for their successors
        until(lambda: server.log.count("Service convscope initialized") == 5)
        assert httpx.post(f"{server.url}/v1/classify", content=IMAGE, timeout=60).status_code == 200


def test_workers_end_and_free_the_port_when_their_parent_is_killed(lenet_artifact, tmp_path):
    settings = {"workers": 2, "drain_s": 60}
    with running_server(lenet_artifact.parent.parent, tmp_path / "log", **settings) as server:
        until(lambda: server.log.count("Service convscope initialized") == 2)
        workers = psutil.Process(server.process.pid).children()
        port = httpx.URL(server.url).port
        begun = half_sent(port)
        time.sleep(0.2)  # until it is accepted
        server.process.kill()
        until(lambda: f"the server's first process ({server.process.pid}) is gone" in server.log)
        begun.sendall(IMAGE[-1:])
        assert answer_on(begun).startswith(b"HTTP/1.1 200 OK")
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))


def test_repeated_signals_do_not_shorten_the_while(lenet_artifact, tmp_path):
    with running_server(lenet_artifact.parent.parent, tmp_path / "log", drain_s=1.5) as server:
        for _ in range(3):
            server.process.send_signal(signal.SIGTERM)
        while "unready; ends in 1.5 s" not in server.log:
            time.sleep(0.01)
        assert httpx.post(f"{server.url}/v1/classify", content=IMAGE).status_code == 200
        assert server.process.wait(timeout=60) == 0
    assert server.log.count("unready") == 1


def test_in_a_container_the_server_ends_when_a_worker_is_killed(lenet_artifact, tmp_path, monkeypatch):
    monkeypatch.setenv("BENTOML_CONTAINERIZED", "true")
    with running_server(lenet_artifact.parent.parent, tmp_path / "log", workers=2) as server:
        until(lambda: server.log.count("Service convscope initialized") == 2)
        victim, _ = psutil.Process(server.process.pid).children()
        victim.kill()
        server.process.wait(timeout=60)
    assert f"the worker with process id {victim.pid} has died, so the server ends" in server.log
