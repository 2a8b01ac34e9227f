"""Identifies this machine, for exported files and measurements that are specific to it."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from export.artifact.manifest import Manifest
from export.engines.cuda import cuda_unavailable_reason
from models.cores import available_cores

_LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "openvino", "torch")


def this_machine() -> dict[str, Any]:
    """The processor's model, the cores of this process, CUDA availability, and the versions of the runtimes."""
    return {
        "processor": _processor(),
        "cores": available_cores(),
        "cuda": cuda_unavailable_reason() is None,
        "versions": {name: found for name in _LIBRARIES if (found := installed_version(name))},
    }


def incompatible_files(manifest: Manifest) -> dict[str, str]:
    """Files of an artifact that are bound to another machine and do not run here, with the reason."""
    here = this_machine()
    return {
        file: f"compiled for another machine: {entry.machine.get('processor')}, {entry.machine.get('versions')}"
        for file, entry in manifest.files.items()
        if entry.machine and any(entry.machine.get(key) != here[key] for key in ("processor", "versions"))
    }


def peak_memory_mb(process: int | str = "self") -> float:
    """Peak resident memory of a Linux process so far, in 10**6 bytes; 0 once it has ended.

    Unlike getrusage's, which after fork and exec starts from the parent's.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0) * 1024 / 1e6


def _processor() -> str:
    """The processor's model name; Python's `platform` only has the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def installed_version(package: str) -> str:
    """Version of a package; empty without installation metadata, as for our own package in a Bento."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
