"""Requests per second and latency of our server and its peers, on one machine, in one run.

    python -m benchmarks.serving artifacts/lenet-digits runs/lenet-digits/example.png
    python -m benchmarks.serving artifacts/resnet18 photo.jpg --threads 2 --connections 8 \\
        --runs onnxruntime-fp32 --runs openvino-bf16 --runs openvino-int8 --workers 1

`make demo` makes the files of the first. Needs wrk (Debian: apt-get install wrk); for the peers `pip install -e
'.[bench]'`, for OpenVINO `.[openvino]`. Servers and load share the machine's cores; the ratios are the result.
Accuracies are those that export measured on the test split. The peers run `model.onnx` with ONNX Runtime in fp32.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import cyclopts
from rich.console import Console
from rich.table import Table

from benchmarks.bounds import Bounds, bounds
from benchmarks.servers import PORT, Server, running, servers
from benchmarks.wrk import Load, load
from export.artifact.directory import newest_version
from export.artifact.manifest import ONNX_FILE, Manifest, read_manifest

Words = Annotated[tuple[str, ...], cyclopts.Parameter(negative="")]
Loads = dict[tuple[str, int], list[Load]]
Starts = dict[str, list[tuple[float, float]]]


def main(
    artifact: Path,
    image: Path,
    *,
    seconds: int = 10,
    rounds: int = 1,
    threads: int = 1,
    connections: tuple[int, ...] = (1, 8, 32, 128),
    runs: Words = ("onnxruntime-fp32",),
    workers: tuple[int, ...] = (1, 2),
    only: Words = (),
) -> None:
    """Prints the tables.

    Args:
        artifact: the artifact that every server serves.
        image: the PNG or JPEG file to send.
        seconds: per measurement.
        rounds: number of turns over all servers; medians are shown.
        threads: per inference.
        connections: concurrent connections.
        runs: engine and precision of our server, such as openvino-bf16; repeatable.
        workers: processes of our server.
        only: prefixes of the servers to measure; repeatable.
    """
    directory, image, console = newest_version(artifact).resolve(), image.resolve(), Console(width=160)
    found = servers(directory, threads=threads, runs=runs, workers=workers)
    chosen = [server for server in found if not only or server.name.startswith(only)]
    loads, starts, limits = Loads(), Starts(), dict[str, Bounds]()
    for _ in range(rounds):
        for server in chosen:
            with running(server) as started:
                for count in connections:
                    url = f"http://127.0.0.1:{PORT}{server.path}"
                    result = load(url, image, form=server.form, connections=count, seconds=seconds)
                    loads.setdefault((server.name, count), []).append(result)
                    console.print(server.name, count, result)
                starts.setdefault(server.name, []).append((started.ready_s, started.memory_mb()))
    for server in chosen:
        if server.run and server.run.key not in limits:
            data, sizes = image.read_bytes(), sorted({1, max(connections), 32})
            limits[server.run.key] = bounds(
                directory, server.run, data, threads=threads, batches=sizes, seconds=seconds / 3
            )
    manifest = read_manifest(directory)
    for count in connections:
        title = (
            f"{manifest.name}, {image.name}, {count} connections; {seconds} s, {rounds} rounds, {threads} threads a run"
        )
        console.print(_table(title, chosen, {name: loads[name, count] for name, _ in loads}, manifest, limits))
    console.print(_start_table(starts))


def _table(
    title: str,
    chosen: Sequence[Server],
    loads: Mapping[str, list[Load]],
    manifest: Manifest,
    limits: Mapping[str, Bounds],
) -> Table:
    ours = [server for server in chosen if server.run and server.workers == 1 and not server.form]
    compared = [f"{server.name.removeprefix('convscope ')} to it: raw, form" for server in ours]
    table = Table(
        "server", "requests/s", "p50 ms", "p99 ms", "errors", "accuracy", "of the bound", *compared, title=title
    )
    for server in chosen:
        rate = _median(loads, server.name, "requests_per_s")
        known = limits.get(server.run.key) if server.run else None
        table.add_row(
            server.name if server.is_ours else f"{server.name}, {'form' if server.form else 'raw'}",
            f"{rate:,.0f}",
            f"{_median(loads, server.name, 'p50_ms'):.2f}",
            f"{_median(loads, server.name, 'p99_ms'):.2f}",
            str(sum(one.errors for one in loads[server.name])),
            _accuracy(server, manifest),
            f"{rate / known.together:.0%}" if known else "",
            *("" if server.is_ours else _ratios(one, server, loads) for one in ours),
        )
    for key, one in limits.items():
        table.caption = (table.caption or "") + (
            f"{key}: engine alone {one.engine:,.0f} images/s (batches of {one.batch}), decoding alone "
            f"{one.decoding:,.0f}, the bound of both {one.together:,.0f}\n"
        )
    return table


def _median(loads: Mapping[str, list[Load]], name: str, column: str) -> float:
    return statistics.median(getattr(one, column) for one in loads[name])


def _accuracy(server: Server, manifest: Manifest) -> str:
    key = server.run.key if server.run else ONNX_FILE
    entry = manifest.runs.get(key) or manifest.files.get(key)
    return f"{entry.accuracy:.2%}" if entry and entry.accuracy is not None else "-"


def _ratios(ours: Server, peer: Server, loads: Mapping[str, list[Load]]) -> str:
    """With a raw body, and with a form if the peer takes one."""
    theirs = _median(loads, peer.name, "requests_per_s") or float("nan")
    raw, form = (_median(loads, name, "requests_per_s") / theirs for name in (ours.name, f"{ours.name}, form"))
    return f"{raw:.2f}x, {form:.2f}x" if peer.form else f"{raw:.2f}x"


def _start_table(starts: Starts) -> Table:
    table = Table("server", "ready after s", "memory MB")
    for name, found in starts.items():
        table.add_row(name, *(f"{statistics.median(column):.1f}" for column in zip(*found, strict=True)))
    return table


if __name__ == "__main__":
    cyclopts.run(main)
