"""The log of a server whose workers die."""

import json
import signal
import subprocess
import sys

import psutil
import pytest

from service.process.supervision import _describe
from tests.real_server import running_server, until


def rows(server):
    return [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]


def test_a_workers_death_and_its_successor_are_lines_with_worker_and_process(lenet_artifact, tmp_path):
    with running_server(lenet_artifact, tmp_path / "log", workers=2, log_format="json") as server:
        until(lambda: server.log.count("Service convscope initialized") == 2)
        workers = {row["worker"]: row["pid"] for row in rows(server) if "initialized" in row["message"]}
        assert set(workers) == {1, 2}
        psutil.Process(workers[2]).kill()
        until(lambda: server.log.count("Service convscope initialized") == 3)
        died, replaced = (row for row in rows(server) if "(process" in row["message"])
        assert died["message"] == (
            f"worker 2 (process {workers[2]}) was killed by SIGKILL, perhaps for lack of memory; another is started"
        )
        (new,) = [row["pid"] for row in rows(server) if "initialized" in row["message"]][2:]
        assert replaced["message"] == f"worker 2 (process {new}) replaces process {workers[2]}"
        assert (died["level"], replaced["level"]) == ("ERROR", "INFO")
        assert died["pid"] == replaced["pid"] == server.process.pid and "worker" not in died
        before = len(rows(server))
    assert not [row for row in rows(server)[before:] if "(process" in row["message"]]  # the end is no death


BUSY = """
import sys
from circus import get_arbiter
from service.process.supervision import supervise

supervise()
arbiter = get_arbiter([{"cmd": "sleep 60", "copy_env": True}], background=False)

def busy():
    arbiter._exclusive_running_command = "manage_watchers"
    print("busy", flush=True)
    arbiter.loop.call_later(2, idle)

def idle():
    arbiter._exclusive_running_command = None

arbiter.start(cb=lambda future: arbiter.loop.call_later(0.5, busy))
"""


def test_sigterm_is_obeyed_once_circus_is_not_busy():
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "busy\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, "is gone"),
        (0, "ended with status 0"),
        (3, "ended with status 3"),
        (-signal.SIGSEGV, "was killed by SIGSEGV"),
        (-signal.SIGKILL, "was killed by SIGKILL, perhaps for lack of memory"),
        (-60, "was killed by signal 60"),
    ],
)
def test_every_end_is_described(status, expected):
    assert _describe(status) == expected
