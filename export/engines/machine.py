"""What an exported file or a measurement may be bound to: this machine, as far as speed and compiled code care."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from export.artifact.manifest import Manifest
from export.engines.cuda import cuda_unavailable_reason

_LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "torch")


def this_machine() -> dict[str, Any]:
    """The processor's model, the cores of this process, whether CUDA works, and the versions of what runs networks."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "cuda": cuda_unavailable_reason() is None,
        "versions": {name: found for name in _LIBRARIES if (found := installed_version(name))},
    }


def incompatible_files(manifest: Manifest) -> dict[str, str]:
    """Files of an artifact that do not run here, as they are bound to another machine, with the reason."""
    here = this_machine()
    return {
        file: f"compiled for another machine: {entry.machine.get('processor')}, {entry.machine.get('versions')}"
        for file, entry in manifest.files.items()
        if entry.machine and any(entry.machine.get(key) != here[key] for key in ("processor", "versions"))
    }


def peak_memory_mb(process: int | str = "self") -> float:
    """The largest resident memory of a Linux process so far, in 10**6 bytes; 0 once it is gone.

    Not getrusage's, which after fork and exec begins with the parent's.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0) * 1024 / 1e6


def _processor() -> str:
    """The model's name; Python's own answer is the architecture only."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def installed_version(package: str) -> str:
    """Of a package; nothing if there is no record of its installation, as a Bento has none of ours."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
