"""Latency of classification alone, and beside inspections of the same server.

    python -m benchmarks.inspection artifacts/lenet-digits runs/lenet-digits/example.png

One client classifies, one request after the other; in every second round another inspects all layers meanwhile.
"""

import asyncio
import statistics
import time
from pathlib import Path

import cyclopts
import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.servers import PORT, running, servers
from export.artifact import newest_version, read_manifest


def main(artifact: Path, image: Path, *, seconds: float = 5.0, rounds: int = 5, threads: int = 1) -> None:
    """Prints p50 and p99 of both, medians over the rounds, and their ratio.

    Args:
        artifact: what is served.
        image: the PNG or JPEG file that is sent.
        seconds: a round of either kind.
        rounds: in turns.
        threads: of one inference.
    """
    directory = newest_version(artifact).resolve()
    name, content = read_manifest(directory).name, image.read_bytes()
    ours = next(server for server in servers(directory, threads=threads) if server.is_ours)
    with running(ours):
        alone, beside, inspections = asyncio.run(_measure(name, content, seconds=seconds, rounds=rounds))
    table = Table("", "p50 ms", "p99 ms", title=f"{name}, {rounds} rounds of {seconds:g} s, {inspections} inspections")
    medians = [[statistics.median(column) for column in zip(*found, strict=True)] for found in (alone, beside)]
    for label, row in zip(("alone", "beside inspections"), medians, strict=True):
        table.add_row(label, *(f"{1e3 * value:.2f}" for value in row))
    table.add_row("ratio", *(f"{after / before:.2f}x" for before, after in zip(*medians, strict=True)))
    Console().print(table)


async def _measure(
    name: str, content: bytes, *, seconds: float, rounds: int
) -> tuple[list[tuple[float, float]], list[tuple[float, float]], int]:
    alone, beside, inspections = [], [], 0
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{PORT}", timeout=60) as client:

        async def inspect() -> None:
            nonlocal inspections
            while True:
                answer = await client.post(f"/v1/models/{name}/feature-maps?format=npz", content=content)
                answer.raise_for_status()
                inspections += 1

        for _ in range(rounds):
            alone.append(await _latencies(client, content, seconds))
            inspecting = asyncio.create_task(inspect())
            beside.append(await _latencies(client, content, seconds))
            inspecting.cancel()
            await asyncio.gather(inspecting, return_exceptions=True)
    return alone, beside, inspections


async def _latencies(client: httpx.AsyncClient, content: bytes, seconds: float) -> tuple[float, float]:
    found, end = [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        (await client.post("/v1/classify", content=content)).raise_for_status()
        found.append(time.perf_counter() - began)
    cuts = statistics.quantiles(found, n=100)
    return cuts[49], cuts[98]


if __name__ == "__main__":
    cyclopts.run(main)
