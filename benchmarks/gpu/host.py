"""The measured machine: its processor, its GPU and the installed versions."""

import platform
import subprocess
import threading
import time
from importlib.metadata import PackageNotFoundError, version

from export.engines.machine import this_machine

_PACKAGES = ("torch", "torchvision", "onnxruntime", "onnxruntime-gpu", "bentoml", "pillow", "uvloop")


def describe_host(device: str) -> dict[str, str]:
    """Device and driver, versions, processor, cores and date, for the head of a report."""
    machine = this_machine()
    found = {"date": time.strftime("%Y-%m-%d %H:%M"), "device": "CPU"}
    if device == "cuda":
        found |= dict(zip(("device", "driver", "device memory"), gpu_facts(), strict=True))
    found |= {"processor": machine["processor"], "cores": str(machine["cores"]), "python": platform.python_version()}
    return {**found, **{name: installed for name in _PACKAGES if (installed := _version(name))}}


def gpu_facts() -> tuple[str, str, str]:
    """Name, driver version and memory of the first GPU, from nvidia-smi."""
    words = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        output = subprocess.run(words, check=True, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return (f"unknown: {error}", "unknown", "unknown")
    name, driver, memory = output.splitlines()[0].split(", ")
    return name, driver, memory


def gpu_used_mb() -> float | None:
    """Memory in use on the first GPU by all processes, in 10**6 bytes; None if it cannot be read."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return float(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used) / 1e6
    except Exception:  # no package, no driver, or no access: the errors share no base class
        return None


class Utilisation:
    """Samples the share of time in which the GPU computes, from entering a block to leaving it.

    Attributes:
        mean: in [0, 1]; None if it cannot be read.
    """

    def __init__(self) -> None:
        self.mean: float | None = None
        self._done = threading.Event()
        self._samples: list[float] = []

    def __enter__(self) -> "Utilisation":
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
        later = self._samples[len(self._samples) // 3 :]  # earlier samples include the warm-up
        self.mean = sum(later) / len(later) if later else None

    def _sample(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
            while not self._done.wait(0.1):
                self._samples.append(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100)
        except Exception:  # see `gpu_used_mb`
            return


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
