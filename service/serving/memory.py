"""This process's memory: its size, and the release of unused pages."""

import ctypes
import gc
import os
import sys
from pathlib import Path


def resident_mb() -> float:
    """Resident memory in 10**6 bytes; 0 without /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def give_back() -> None:
    """Collects garbage, and returns free pages to the system, which glibc otherwise keeps."""
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
