"""A real server: `bentoml serve` as `convscope serve` starts it, in a process group of its own."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.process.server import command, environment, wait_until_ready
from service.settings import read_settings

SERVICE = "service.app:Classifier"


@dataclass(frozen=True)
class Server:
    """A running server; `log` is what it has printed so far."""

    url: str
    process: "subprocess.Popen[bytes]"
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_server(
    artifacts: Path, log_file: Path, *, ready: bool = True, service: str = SERVICE, **settings: Any
) -> Iterator[Server]:
    """Starts a server, waits until it is ready (or, with `ready=False`, until it answers), and stops it."""
    chosen = read_settings(artifacts=artifacts, **{"port": free_port(), "drain_s": 0, **settings})
    words = [service if word == SERVICE else word for word in command(chosen)]
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            words, env=environment(chosen), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    server = Server(f"http://127.0.0.1:{chosen.port}", process, log_file)
    try:
        wait_until_ready(server.url, process, timeout_s=120, path="/readyz" if ready else "/livez")
        yield server
    finally:
        stop(process)


def until(condition: Callable[[], object], timeout_s: float = 60) -> None:
    """Waits for what other processes do in their own time.

    Raises:
        AssertionError: it did not come about.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process and everything it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
