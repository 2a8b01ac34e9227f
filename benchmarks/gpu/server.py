"""The real server under measurement, as `convscope serve` starts it, in a process group of its own."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.gpu.report import last_line
from service.process.server import command, environment
from service.settings import read_settings

HOST = "127.0.0.1"
_STOP_S = 15.0
_REFUSED_S = 3.0  # of answers other than 200, after which a server counts as failed
_LOADED = re.compile(r'convscope_model_loaded\{[^}]*model="([^"]+)"[^}]*\} (\S+)')
_BATCH = re.compile(r'convscope_batch_size_(sum|count)\{model="([^"]+)",version="[^"]+"\} (\S+)')
_WORTH_READING = re.compile(r"error|exception|refused|not served|not ready|cannot|failed", re.IGNORECASE)


class ServerFailed(RuntimeError):
    """A server that did not become ready; the message is the reason, or the last line of its log."""


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        process: leads a process group.
        ready_s: seconds from its start until it was ready.
    """

    port: int
    process: "subprocess.Popen[bytes]"
    log: Path
    ready_s: float = 0.0

    @property
    def url(self) -> str:
        """The base URL, without a trailing slash."""
        return f"http://{HOST}:{self.port}"

    def wait(self, workers: int, *, timeout_s: float) -> None:
        """Waits until every worker serves every model.

        Raises:
            ServerFailed: the server ended, refuses an artifact, or is not ready in time.
        """
        deadline, refused_since = time.monotonic() + timeout_s, 0.0
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ServerFailed(f"the server ended with {self.process.returncode}: {reason_in(self.log)}")
            answer = self._get("/readyz")
            if answer is not None and answer.status_code == 200:
                loaded = self._loaded()
                if loaded and min(loaded.values()) >= workers:
                    return
            elif answer is not None:  # a refused artifact stays refused
                refused_since = refused_since or time.monotonic()
                if time.monotonic() - refused_since > _REFUSED_S:
                    raise ServerFailed(f"the server is not ready: {answer.text[:250]}")
            time.sleep(0.2)
        raise ServerFailed(f"the server was not ready within {timeout_s:.0f} s: {reason_in(self.log)}")

    def _get(self, path: str) -> httpx.Response | None:
        try:
            return httpx.get(f"{self.url}{path}", timeout=10)
        except httpx.TransportError:
            return None

    def _loaded(self) -> dict[str, float]:
        """Number of workers that serve each model, by its name."""
        answer, found = self._get("/metrics"), dict[str, float]()
        for model, value in _LOADED.findall(answer.text if answer else ""):
            found[model] = found.get(model, 0.0) + float(value)
        return found

    def batches(self) -> dict[str, tuple[float, float]]:
        """Images and batches of each model so far, over all workers; other workers' counts lag by up to a second."""
        text = httpx.get(f"{self.url}/metrics", timeout=10).text
        found: dict[str, dict[str, float]] = {}
        for kind, model, value in _BATCH.findall(text):
            found.setdefault(model, {})[kind] = float(value)
        return {model: (numbers["sum"], numbers["count"]) for model, numbers in found.items()}

    def status(self, path: str = "/readyz") -> int:
        """The status of `path`; 0 if there is no answer."""
        answer = self._get(path)
        return answer.status_code if answer is not None else 0

    def cpu_s(self) -> dict[int, float]:
        """Processor time of each process so far, by process id."""
        found: dict[int, float] = {}
        for process in family(self.process.pid):
            with suppress(psutil.Error):
                times = process.cpu_times()
                found[process.pid] = times.user + times.system
        return found

    def resident_mb(self) -> float:
        """Total resident memory of all processes, in 10**6 bytes; shared pages count for each."""
        total = 0.0
        for process in family(self.process.pid):
            with suppress(psutil.Error):
                total += process.memory_info().rss / 1e6
        return total


@contextmanager
def serving(
    artifacts: Path, log: Path, *, timeout_s: float = 120.0, variables: Mapping[str, str] | None = None, **settings: Any
) -> Iterator[Server]:
    """Starts a server, waits until all its workers are ready, and ends its whole process group when the block ends.

    Args:
        artifacts: folder of artifacts.
        log: file for its output.
        timeout_s: maximum time until it is ready.
        variables: further environment variables.
        settings: fields of `service.settings.Settings`.

    Raises:
        ServerFailed: the server ended, or was not ready in time.
    """
    port, began = free_port(), time.perf_counter()
    process = start(artifacts, log, port=port, variables=variables, **settings)
    try:
        server = Server(port, process, log)
        server.wait(settings.get("workers", 1), timeout_s=timeout_s)
        yield replace(server, ready_s=time.perf_counter() - began)
    finally:
        stop(process)


def start(
    artifacts: Path, log: Path, *, port: int, variables: Mapping[str, str] | None = None, **settings: Any
) -> "subprocess.Popen[bytes]":
    """Starts a server without waiting for it; `stop` ends it."""
    chosen = read_settings(artifacts=artifacts, host=HOST, port=port, **{"drain_s": 0.0, **settings})
    with log.open("wb") as output:
        return subprocess.Popen(
            command(chosen),
            env={**environment(chosen), **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process and its whole group; kills them after 15 s."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def family(pid: int) -> list[psutil.Process]:
    """A process and all its living descendants."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def problems_in(log: Path) -> list[str]:
    """The beginnings of all warning and error lines of a log."""
    text = log.read_text(errors="replace") if log.is_file() else ""
    return [line[:200] for line in text.splitlines() if "[WARNING]" in line or "[ERROR]" in line]


def reason_in(log: Path) -> str:
    """The last line of a log that looks like a reason, or else its last line."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    worth = [line for line in lines if _WORTH_READING.search(line)]
    return last_line((worth or lines or ["empty"])[-1])
