"""Requests per second and latency of our server and its peers, on one machine, in one run.

    python -m benchmarks.serving artifacts/lenet-digits runs/lenet-digits/example.png

`make demo` makes both. Needs wrk (Debian: apt-get install wrk); for the peers `pip install -e '.[bench]'`.
Servers and load share the machine's cores; the ratio is the result.
"""

import statistics
from pathlib import Path

import cyclopts
from rich.console import Console
from rich.table import Table

from benchmarks.servers import PORT, Server, running, servers
from benchmarks.wrk import Load, load
from export.artifact.directory import newest_version

Loads = dict[tuple[str, int], list[Load]]


def main(
    artifact: Path,
    image: Path,
    *,
    seconds: int = 10,
    rounds: int = 1,
    threads: int = 1,
    connections: tuple[int, ...] = (1, 8, 32, 128),
    only: tuple[str, ...] = (),
) -> None:
    """Prints the tables.

    Args:
        artifact: the artifact that every server serves.
        image: the PNG or JPEG file to send.
        seconds: per measurement.
        rounds: number of turns over all servers; medians are shown.
        threads: per inference.
        connections: concurrent connections.
        only: prefixes of the servers to measure.
    """
    directory, image, console = newest_version(artifact).resolve(), image.resolve(), Console(width=120)
    chosen = [server for server in servers(directory, threads=threads) if not only or server.name.startswith(only)]
    loads: Loads = {}
    starts: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for server in chosen:
            with running(server) as started:
                for count in connections:
                    url = f"http://127.0.0.1:{PORT}{server.path}"
                    found = load(url, image, form=server.form, connections=count, seconds=seconds)
                    loads.setdefault((server.name, count), []).append(found)
                    console.print(server.name, count, found)
                starts.setdefault(server.name, []).append((started.ready_s, started.memory_mb()))
    title = f"{directory.parent.name}, {image.name}; {seconds} s each, {rounds} rounds, {threads} threads a run"
    console.print(_table(title, chosen, connections, loads, starts))


def _table(
    title: str,
    chosen: list[Server],
    connections: tuple[int, ...],
    loads: Loads,
    starts: dict[str, list[tuple[float, float]]],
) -> Table:
    ours = {bool(server.form): server.name for server in reversed(chosen) if server.is_ours}
    headings = ("connections", "requests/s", "p50 ms", "p99 ms", "errors", "ours to it", "ready s", "memory MB")
    table = Table("server", *headings, title=title)
    for server in chosen:
        for count in connections:
            found = loads[server.name, count]
            rate, p50, p99 = (
                statistics.median(getattr(one, name) for one in found)
                for name in ("requests_per_s", "p50_ms", "p99_ms")
            )
            same = ours.get(bool(server.form))  # with the same kind of body
            other = statistics.median(one.requests_per_s for one in loads[same, count]) if same else 0.0
            start = [f"{statistics.median(column):.1f}" for column in zip(*starts[server.name], strict=True)]
            table.add_row(
                server.name if count == connections[0] else "",
                str(count),
                f"{rate:,.0f}",
                f"{p50:.2f}",
                f"{p99:.2f}",
                str(sum(one.errors for one in found)),
                f"{other / rate:.2f}x" if rate and other else "-",
                *(start if count == connections[0] else ("", "")),
                end_section=count == connections[-1],
            )
    return table


if __name__ == "__main__":
    cyclopts.run(main)
