"""Proxies of the environment: none for this machine, and named in errors for others."""

import asyncio
import http.server
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.errors import UserError
from service.client.client import AsyncClient, Client, NoAnswer, Policy
from service.process.server import ServerFailed, wait_until_ready
from tests.conftest import Outcome
from tests.in_process import digit, encoded
from tests.real_server import Server, free_port

ONCE = Policy(retries=0)
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def proxy_that_nobody_answers(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, NOBODY)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def refusing_proxy() -> Iterator[str]:
    """A proxy that answers 403 itself."""

    class Refusal(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refusal) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://user:secret@127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def test_a_server_on_this_machine_is_asked_directly(server: Server) -> None:
    async def models() -> int:
        async with AsyncClient(server.url, policy=ONCE) as client:
            return len(await client.models())

    with Client(server.url, policy=ONCE) as client:
        assert len(client.models()) == asyncio.run(models()) == 1


def test_the_command_classifies_on_this_machine_and_names_a_proxy_elsewhere(
    server: Server, run: Callable[..., Outcome], tmp_path: Path
) -> None:
    image = tmp_path / "digit.png"
    image.write_bytes(encoded(digit()))
    assert run("classify", image, "--url", server.url).status == 0
    done = run("classify", image, "--url", "http://models.example:3000")
    assert done.status == 1 and len(done.err.splitlines()) == 1
    assert f"proxy {NOBODY} of the environment; NO_PROXY=models.example goes direct" in done.err


def test_an_answer_of_the_proxy_names_it_without_its_password(
    refusing_proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", refusing_proxy)
    shown = refusing_proxy.replace("user:secret@", "")
    with Client("http://models.example", policy=ONCE) as client:
        with pytest.raises(NoAnswer, match=rf"answered 403, and not as convscope does \(.* proxy {shown} of") as caught:
            client.models()
    assert "secret" not in str(caught.value) and caught.value.status == 403


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "gopher://127.0.0.1:9"])
def test_a_proxy_of_an_unsupported_kind_is_the_users_error(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    for kind in (Client, AsyncClient):
        with pytest.raises(UserError, match=f"cannot ask http://models.example: .* proxy {proxy} of"):
            kind("http://models.example")


def test_a_started_server_is_asked_directly(server: Server) -> None:
    wait_until_ready(server.url, server.process, timeout_s=60)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        with pytest.raises(ServerFailed, match="nothing was answered"):
            wait_until_ready(f"http://127.0.0.1:{free_port()}", process, timeout_s=0.5)
        process.kill()
