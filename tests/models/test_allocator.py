"""Memory that tensors free stays with the process, counted in page faults."""

import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, sys
import numpy as np
from models.allocator import retain_freed_memory

def faults(mebibytes):
    np.ones(mebibytes << 20, np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        np.ones(mebibytes << 20, np.uint8)  # 256 pages for each MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

large = sys.argv[1] == "large"
left = faults(64), faults(16)
assert retain_freed_memory(large=large)
print(*left, faults(64), faults(16))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("large", [True, False])
def test_freed_memory_is_not_faulted_in_again(large: bool) -> None:
    words = [sys.executable, "-c", COUNT, "large" if large else ""]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    left_64, left_16, kept_64, kept_16 = map(int, done.stdout.split())
    assert kept_16 < max(left_16, 40_000) / 4  # it takes some rounds until the heap has its form
    assert (kept_64 < left_64 / 4) == large
