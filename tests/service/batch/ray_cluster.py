"""Nodes of a Ray cluster on this machine, each a `ray start` of its own that can be killed with all its processes."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[3]
RAY = Path(sys.executable).with_name("ray")
SETTINGS = {
    "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "1000",  # so that a dead node is noticed in a second
    "RAY_health_check_period_ms": "300",
    "RAY_health_check_failure_threshold": "3",
}
_START_S = 60


class Node:
    """A node with one CPU.

    Args:
        words: further arguments of `ray start`.
        log: gets its output.
    """

    def __init__(self, *words: object, log: Path) -> None:
        command = [RAY, "start", "--block", "--num-cpus", 1, "--object-store-memory", 80_000_000, *words]
        with log.open("a") as output:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=os.environ | SETTINGS,
            )
        self._known: dict[int, psutil.Process] = {}

    def processes(self) -> list[psutil.Process]:
        """All that run, those of workers and their decoders too."""
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._process.pid)
            self._known |= {one.pid: one for one in (root, *root.children(recursive=True))}
        return [one for one in self._known.values() if one.is_running()]

    def workers(self) -> list[psutil.Process]:
        """Processes of our actors."""
        found = []
        for one in self.processes():
            with suppress(psutil.NoSuchProcess):
                if "ray::Worker" in " ".join(one.cmdline()):
                    found.append(one)
        return found

    def kill(self) -> None:
        """Ends all at once, as a loss of power does."""
        victims = self.processes()
        for one in victims:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self._process.wait()
        psutil.wait_procs(victims, timeout=10)


class RayCluster:
    """A head, and nodes that are added to it.

    Args:
        folder: for logs and sockets; its path is short, as Unix sockets need.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self.nodes = folder, list[Node]()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"

    def add_head(self) -> Node:
        """Starts the first node."""
        words = ("--head", "--port", self._port, "--include-dashboard", "false", "--temp-dir", self._folder / "ray")
        return self._add(lambda node: _answers(self._port), *words)

    def add_node(self) -> Node:
        """Starts a further node."""
        return self._add(
            lambda node: any("raylet" in one.name() for one in node.processes()), "--address", self.address
        )

    def _add(self, is_ready: Callable[[Node], bool], *words: object) -> Node:
        log = self._folder / "nodes.log"
        node = Node(*words, "--node-ip-address", "127.0.0.1", log=log)
        self.nodes.append(node)
        end = time.monotonic() + _START_S
        while not is_ready(node):
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        return node


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextmanager
def running_cluster() -> Iterator[RayCluster]:
    """A cluster of two nodes, which are ended afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="cs-ray-"))
    cluster = RayCluster(folder)
    try:
        cluster.add_head()
        cluster.add_node()
        yield cluster
    finally:
        for node in cluster.nodes:
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)
