"""Many images in one binary request of the Open Inference Protocol, against ONNX Runtime on the same batch in a loop.

    python -m benchmarks.tensors artifacts/lenet-digits

Needs `pip install -e '.[dev]'` for tritonclient. Server, client and loop share the machine's cores; the two take turns.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cyclopts
import numpy as np
from rich.console import Console
from rich.table import Table
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from benchmarks.servers import PORT, running, servers
from export.artifact.directory import newest_version
from export.artifact.manifest import ONNX_FILE, read_manifest
from export.engines.onnxruntime import OnnxEngine


def main(artifact: Path, *, images: int = 256, seconds: float = 3.0, rounds: int = 5, threads: int = 1) -> None:
    """Prints images per second of both, medians over the rounds, and their ratio.

    Args:
        artifact: the artifact to run.
        images: per request.
        seconds: per measurement.
        rounds: measured in turns.
        threads: per inference.
    """
    directory = newest_version(artifact).resolve()
    manifest = read_manifest(directory)
    batch = np.random.default_rng(0).integers(0, 256, (images, *manifest.input.shape), dtype=np.uint8)
    engine = OnnxEngine(directory / ONNX_FILE, device="cpu", threads=threads)
    ours = next(server for server in servers(directory, threads=threads) if server.is_ours)
    found: dict[str, list[float]] = {"server": [], "loop": []}
    with running(ours), InferenceServerClient(f"127.0.0.1:{PORT}") as client:
        tensor = InferInput("image", list(batch.shape), "UINT8")
        tensor.set_data_from_numpy(batch, binary_data=True)
        outputs = [InferRequestedOutput("probabilities", binary_data=True)]

        def ask() -> np.ndarray:
            return client.infer(manifest.name, [tensor], outputs=outputs).as_numpy("probabilities")

        np.testing.assert_allclose(ask(), engine.run(batch)[0], atol=1e-6)
        for _ in range(rounds):
            found["server"].append(images * _rate(ask, seconds))
            found["loop"].append(images * _rate(lambda: engine.run(batch), seconds))
    server, loop = (statistics.median(rates) for rates in found.values())
    table = Table("images/s through the server", "in a loop", "ratio", title=f"{manifest.name}, {images} at a time")
    table.add_row(f"{server:,.0f}", f"{loop:,.0f}", f"{server / loop:.2f}x")
    Console().print(table)


def _rate(call: Callable[[], object], seconds: float) -> float:
    """Calls per second, on one connection or thread."""
    call()
    began, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        call()
        count += 1
    return count / passed


if __name__ == "__main__":
    cyclopts.run(main)
