"""Detects GPUs that CUDA can use by querying the driver itself, so that no framework needs to be loaded."""

import ctypes
from typing import Literal

from export.engines.protocol import DeviceLost, DeviceMemoryFull

Device = Literal["auto", "cpu", "cuda"]
_MEMORY_SIGNS = ("out of memory", "ALLOC_FAILED", "Failed to allocate memory")
_LOSS_SIGNS = ("CUDA error", "CUDA failure", "CUDNN_STATUS_EXECUTION_FAILED", "CUBLAS_STATUS_EXECUTION_FAILED")


def cuda_unavailable_reason() -> str | None:
    """None if the driver reports at least one GPU; otherwise why not, as a clause."""
    return count_gpus()[1]


def count_gpus() -> tuple[int, str | None]:
    """Number of GPUs the driver shows this process, and why, as a clause, if there are none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0, "there is no NVIDIA driver (libcuda.so.1) on this machine"
    if (code := driver.cuInit(0)) != 0:
        return 0, f"the NVIDIA driver does not start (cuInit gives error {code})"
    count = ctypes.c_int()
    if (code := driver.cuDeviceGetCount(ctypes.byref(count))) != 0 or count.value == 0:
        return 0, f"the NVIDIA driver reports no GPU (error {code})"
    return count.value, None


def explain(error: Exception) -> Exception:
    """Maps an error of torch or ONNX Runtime on a GPU to ours by its message, as their classes do not differ.

    Returns:
        `DeviceMemoryFull`, `DeviceLost`, or otherwise the error itself.
    """
    text = str(error)
    if any(sign in text for sign in _MEMORY_SIGNS):
        return DeviceMemoryFull("the GPU's memory is full")
    if any(sign in text for sign in _LOSS_SIGNS):
        reason = next((line for line in reversed(text.splitlines()) if "CU" in line), text)
        return DeviceLost(f"the GPU stopped working: {reason.strip()[:200]}")
    return error
