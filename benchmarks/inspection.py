"""Latency of classification beside inspections, and what inspections cost beyond one run of the inspected graph.

    python -m benchmarks.inspection artifacts/lenet-digits runs/lenet-digits/example.png

`make demo` makes both. Needs wrk, which classifies on one connection; server and clients share the cores.
"""

import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cyclopts
import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.servers import PORT, running, servers
from benchmarks.wrk import Load, load
from export.artifact.directory import newest_version
from export.artifact.manifest import read_manifest
from export.predictor import Predictor
from service.inspection.units import extractor_of


def main(
    artifact: Path,
    image: Path,
    *,
    layers: str = "*",
    seconds: int = 5,
    rounds: int = 5,
    repeats: int = 30,
    threads: int = 1,
) -> None:
    """Prints two tables: p50 and p99 of classification, medians over the rounds; and milliseconds of inspections.

    Args:
        artifact: the served artifact.
        image: the PNG or JPEG file to send.
        layers: the inspected layers.
        seconds: per measurement.
        rounds: measured in turns.
        repeats: inspections of each kind, in turns; medians are shown.
        threads: per inference.
    """
    directory = newest_version(artifact).resolve()
    ours = next(server for server in servers(directory, threads=threads) if server.is_ours)
    name, server = read_manifest(directory).name, f"http://127.0.0.1:{PORT}"
    alone: list[Load] = []
    beside: list[Load] = []
    with running(ours):
        _costs(directory, f"{server}/v1/models/{name}", image, layers, repeats=repeats, threads=threads)
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


def _costs(directory: Path, url: str, image: Path, layers: str, *, repeats: int, threads: int) -> None:
    """Times requests on one connection, each beside a run of the same graph in this process."""
    predictor, content = Predictor.open(directory, threads=threads), image.read_bytes()
    pixels = predictor.decode(image)[np.newaxis]
    extractor = extractor_of(predictor)
    node = next(node for node in predictor.manifest.nodes if len(node.shape) == 3)
    place = ",".join(str(size // 2) for size in node.shape)
    paths = {
        "all layers, top 16, uint8, npz": "feature-maps?format=npz&values=uint8&top=16",
        "all layers, top 16, uint8, JSON": "feature-maps?values=uint8&top=16",
        f"{layers}, top 16, uint8, npz": f"feature-maps?format=npz&values=uint8&top=16&layers={layers}",
        f"unit of {node.name}": f"unit?layer={node.name}&index={place}",
    }
    table = Table("request", "ms", "graph alone, ms", "ratio", "MB", title=f"inspections, medians of {repeats}")
    with httpx.Client(timeout=60) as client:
        for label, path in paths.items():
            times: list[tuple[float, float]] = []
            for _ in range(repeats + 2):
                started = time.perf_counter()
                extractor.run(pixels, [])
                between = time.perf_counter()
                answer = client.post(f"{url}/{path}", content=content).raise_for_status()
                times.append((between - started, time.perf_counter() - between))
            graph, request = (1000 * statistics.median(column) for column in zip(*times[2:], strict=True))
            size = len(answer.content) / 1e6
            table.add_row(label, f"{request:.2f}", f"{graph:.2f}", f"{request / graph:.2f}x", f"{size:.2f}")
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
