"""A real server with two workers that is told to end loses no request."""

import signal
import threading
import time

import httpx
import psutil

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
