"""Memory that tensors free stays with the process, counted in page faults."""

import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, torch
from training.loop.allocator import retain_freed_memory

def faults():
    torch.ones(16 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        torch.ones(16 << 20)  # 64 MiB, in 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

left = faults()
assert retain_freed_memory()
print(left, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_not_faulted_in_again() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    left, kept = map(int, done.stdout.split())
    assert kept < left / 4  # it takes some rounds until the heap has its form
