"""A server started where no GPU is visible."""

import os
import subprocess
import sys
from pathlib import Path

import httpx

from benchmarks.gpu.networks import digits
from benchmarks.gpu.options import Options
from benchmarks.gpu.report import Report, last_line
from benchmarks.gpu.server import free_port, serving

HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}


def without_gpu(report: Report, artifacts: Path, options: Options) -> None:
    """Starts `convscope serve` with the device cuda, which must refuse, and with auto, which must take the CPU."""
    words = [sys.executable, "-m", "convscope", "serve", str(artifacts), "--engine", "torchscript"]
    words += ["--device", "cuda", "--port", str(free_port())]
    try:
        done = subprocess.run(words, env={**os.environ, **HIDDEN}, capture_output=True, text=True, timeout=40)
        result = f"exit {done.returncode}: {last_line(done.stderr or done.stdout)}"
    except subprocess.TimeoutExpired:
        result = "still running after 40 s"
    report.row("no GPU is visible, device cuda", result)
    log = options.work / "without-gpu.log"
    with serving(artifacts, log, engine="torchscript", device="auto", timeout_s=60, variables=HIDDEN) as server:
        models = httpx.get(f"{server.url}/v1/models", timeout=10).json()["models"]
        image = digits(1)[0]
        status = httpx.post(f"{server.url}/v1/classify", content=image, timeout=10).status_code
        where = ", ".join(f"{model['name']} on {model.get('device')}" for model in models)
        report.row("no GPU is visible, device auto", f"ready after {server.ready_s:.1f} s, {where}, classify {status}")
