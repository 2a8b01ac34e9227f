"""Whether this machine has a GPU that CUDA can use, asked of the driver itself, so that no framework need be loaded."""

import ctypes
from typing import Literal

Device = Literal["auto", "cpu", "cuda"]


def cuda_unavailable_reason() -> str | None:
    """None if the driver reports at least one GPU; otherwise what is missing, for people to read."""
    return count_gpus()[1]


def count_gpus() -> tuple[int, str | None]:
    """How many GPUs the driver shows this process, and what is missing if there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0, "no NVIDIA driver (libcuda.so.1) on this machine"
    if (code := driver.cuInit(0)) != 0:
        return 0, f"the NVIDIA driver does not start (cuInit gives error {code})"
    count = ctypes.c_int()
    if (code := driver.cuDeviceGetCount(ctypes.byref(count))) != 0 or count.value == 0:
        return 0, f"the NVIDIA driver reports no GPU (error {code})"
    return count.value, None
