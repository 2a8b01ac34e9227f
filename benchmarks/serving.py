"""Requests per second and latency of our server beside a bare Starlette route, on one machine, in one run.

    python benchmarks/serving.py artifacts/lenet-digits --image runs/lenet-digits/example.png

Both are there after `make demo`. Needs wrk (Debian: apt-get install wrk). Servers and load share the machine's cores;
what counts is the ratio.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cyclopts
from rich.console import Console
from rich.table import Table

from export.artifact import ONNX_FILE, newest_version
from service.server_process import command, environment, wait_until_ready
from service.settings import read_settings

HERE = Path(__file__).parent
PORT = 3901


@contextmanager
def process(words: list[str], variables: dict[str, str], ready: str) -> Iterator[None]:
    """Runs a server until the block ends; `ready` is a path that answers 200 when it is."""
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(words, env=variables, stdout=log, stderr=log, cwd=HERE)
        try:
            wait_until_ready(f"http://127.0.0.1:{PORT}", server, timeout_s=60, path=ready)
            yield
        finally:
            server.terminate()
            server.wait()


def load(path: str, image: Path, connections: int, seconds: int) -> dict[str, float]:
    """What wrk measured: requests/s, p50 and p99 in ms, answers that were not 200."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(
            f'local file = io.open("{image}", "rb")\nwrk.method, wrk.body = "POST", file:read("*a")\n'
            "done = function(summary, latency) io.write(string.format("
            '"RESULT %f %f %f %d\\n", summary.requests / summary.duration * 1e6, '
            "latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, summary.errors.status)) end\n"
        )
        script.flush()
        url = f"http://127.0.0.1:{PORT}{path}"
        words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script.name, url]
        subprocess.run([*words[:3], "-d2s", *words[4:]], check=True, capture_output=True)  # warm-up
        done = subprocess.run(words, check=True, capture_output=True, text=True)
    found = re.search(r"RESULT (\S+) (\S+) (\S+) (\S+)", done.stdout)
    assert found, done.stdout
    return dict(zip(("rate", "p50", "p99", "errors"), map(float, found.groups()), strict=True))


def main(
    artifact: Path = Path("artifacts/lenet-digits"),
    *,
    image: Path = Path("runs/lenet-digits/example.png"),
    seconds: int = 10,
    connections: tuple[int, ...] = (1, 8, 32),
) -> None:
    """Prints the table.

    Args:
        artifact: what both servers serve.
        image: the file that is sent.
        seconds: a measurement.
        connections: kept busy at once.
    """
    directory, image = newest_version(artifact).resolve(), image.resolve()
    settings = read_settings(artifacts=directory, port=PORT, threads=1)
    bare = [sys.executable, "-m", "uvicorn", "bare_starlette:app", "--port", str(PORT), "--no-access-log"]
    servers = {
        "bare Starlette": (bare, {**os.environ, "MODEL": str(directory / ONNX_FILE)}, "/ready", "/classify"),
        "convscope": (command(settings), environment(settings), "/readyz", "/v1/classify"),
    }
    table = Table("server", "connections", "requests/s", "p50 ms", "p99 ms", "errors", "to bare", title=str(directory))
    rates: dict[int, float] = {}
    for name, (words, variables, ready, path) in servers.items():
        with process(words, variables, ready):
            for count in connections:
                found = load(path, image, count, seconds)
                rates.setdefault(count, found["rate"])
                row = f"{found['rate']:.0f} {found['p50']:.2f} {found['p99']:.2f} {found['errors']:.0f}".split()
                table.add_row(name, str(count), *row, f"{found['rate'] / rates[count]:.2f}x")
    Console().print(table)


if __name__ == "__main__":
    cyclopts.run(main)
