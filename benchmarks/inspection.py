"""Latency of classification alone, and while the same server inspects one image after another.

    python -m benchmarks.inspection artifacts/lenet-digits runs/lenet-digits/example.png

`make demo` makes both. Needs wrk, which classifies on one connection; server and clients share the cores.
"""

import statistics
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cyclopts
import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.servers import PORT, running, servers
from benchmarks.wrk import Load, load
from export.artifact.directory import newest_version
from export.artifact.manifest import read_manifest


def main(
    artifact: Path, image: Path, *, layers: str = "*", seconds: int = 5, rounds: int = 5, threads: int = 1
) -> None:
    """Prints p50 and p99 of both, medians over the rounds, and their ratio.

    Args:
        artifact: the served artifact.
        image: the PNG or JPEG file to send.
        layers: the inspected layers.
        seconds: per measurement.
        rounds: measured in turns.
        threads: per inference.
    """
    directory = newest_version(artifact).resolve()
    ours = next(server for server in servers(directory, threads=threads) if server.is_ours)
    name, server = read_manifest(directory).name, f"http://127.0.0.1:{PORT}"
    alone: list[Load] = []
    beside: list[Load] = []
    with running(ours):
        for _ in range(rounds):
            alone.append(load(f"{server}{ours.path}", image, form="", connections=1, seconds=seconds))
            with _inspecting(f"{server}/v1/models/{name}/feature-maps?format=npz&layers={layers}", image):
                beside.append(load(f"{server}{ours.path}", image, form="", connections=1, seconds=seconds))
    table = Table(
        "classification", "p50 ms", "p99 ms", title=f"{directory.parent.name}, {rounds} rounds of {seconds} s"
    )
    medians = [
        [statistics.median(getattr(one, name) for one in loads) for name in ("p50_ms", "p99_ms")]
        for loads in (alone, beside)
    ]
    for label, row in zip(("alone", "beside inspections"), medians, strict=True):
        table.add_row(label, *(f"{value:.2f}" for value in row))
    table.add_row("ratio", *(f"{after / before:.2f}x" for before, after in zip(*medians, strict=True)))
    Console().print(table)


@contextmanager
def _inspecting(url: str, image: Path) -> Iterator[None]:
    """Inspects every layer repeatedly, on one connection, until the block ends."""
    done, content = threading.Event(), image.read_bytes()

    def inspect() -> None:
        with httpx.Client(timeout=60) as client:
            while not done.is_set():
                client.post(url, content=content).raise_for_status()

    with ThreadPoolExecutor(1) as pool:
        inspecting = pool.submit(inspect)
        try:
            yield
        finally:
            done.set()
        inspecting.result()


if __name__ == "__main__":
    cyclopts.run(main)
