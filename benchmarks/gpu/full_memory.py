"""A GPU whose memory another process fills while the server uses it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from benchmarks.gpu.host import gpu_used_mb
from benchmarks.gpu.load import load
from benchmarks.gpu.messages import infer_message
from benchmarks.gpu.networks import pixels_for
from benchmarks.gpu.options import Options
from benchmarks.gpu.report import Report, last_line
from benchmarks.gpu.server import HOST, Server

LEFT_MB = 300
WANTED = {200, 429, 503}
_BATCH = 64
_RECOVERY_S = 20.0
# Plain allocations in decreasing steps; then it waits to be terminated.
_HOLDER = f"""
import sys, torch
held = []
for step in (2**30, 2**27, 2**24):
    while torch.cuda.mem_get_info()[0] > {LEFT_MB} * 10**6 + step:
        held.append(torch.empty(step, dtype=torch.uint8, device="cuda"))
print(torch.cuda.mem_get_info()[0] // 10**6, flush=True)
sys.stdin.read()
"""


def full_memory(report: Report, server: Server, model: str, options: Options) -> None:
    """Sends batches of 64 images, and unloads and loads the model, while the GPU's memory is full; then checks that
    the server recovers.
    """
    if options.device == "cpu":
        report.row("full GPU memory", "no GPU")
        return
    message = infer_message(pixels_for("resnet18", _BATCH), model)
    with memory_taken() as left_mb:
        before = gpu_used_mb()
        found = load(HOST, server.port, [message], connections=8, seconds=3.0, processes=1, images_per_request=_BATCH)
        judged = "as wanted" if set(found.statuses) <= WANTED else f"wanted {sorted(WANTED)}"
        name = f"{left_mb} MB left on the GPU"
        statuses = ", ".join(f"{status}: {count}" for status, count in found.statuses.items())
        report.row(f"{name}: batches of {_BATCH}", f"{statuses} ({judged})", before, gpu_used_mb(), "GPU MB in use")
        report.row(f"{name}: readiness", f"/readyz {server.status()}")
        report.row(f"{name}: unload and load", _reload(server, model))
    began = time.monotonic()
    while (status := server.status()) != 200 and time.monotonic() - began < _RECOVERY_S:
        time.sleep(0.2)
    report.row("memory is back: readiness", f"/readyz {status} after {time.monotonic() - began:.1f} s")
    report.row("memory is back: load", _reload(server, model))
    found = load(HOST, server.port, [message], connections=8, seconds=1.0, processes=1, images_per_request=_BATCH)
    statuses = ", ".join(f"{status}: {count}" for status, count in found.statuses.items())
    report.row(f"memory is back: batches of {_BATCH}", statuses)


@contextmanager
def memory_taken() -> Iterator[int]:
    """Lets another process take all but about 300 MB of the GPU's memory; yields the free memory in 10**6 bytes.

    Raises:
        RuntimeError: the memory could not be taken.
    """
    words = [sys.executable, "-c", _HOLDER]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as holder:
        assert holder.stdin and holder.stdout and holder.stderr, "they are pipes"
        try:
            if not (line := holder.stdout.readline()):
                raise RuntimeError(f"the memory was not taken: {last_line(holder.stderr.read().decode())}")
            yield int(line)
        finally:
            holder.kill()


def _reload(server: Server, model: str) -> str:
    found = []
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for action in ("unload", "load"):
            answer = client.post(f"/v2/repository/models/{model}/{action}")
            why = "" if answer.status_code == 200 else f" ({answer.text[:120]})"
            found.append(f"{action} {answer.status_code}{why}")
    return ", ".join(found)
