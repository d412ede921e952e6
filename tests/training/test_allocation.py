"""Freed memory is reused without a request to the system."""

import platform
import subprocess
import sys

import pytest

COUNT = """
import resource
import torch
from prdp_hpc.training.allocation import keep_freed_memory
sizes = (40_000_000, 100_000_000)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in sizes:
        torch.empty(size, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
# Small allocations settle between the large ones first.
print([faults() for _ in range(8)][-1])
keep_freed_memory()
print([faults() for _ in range(8)][-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_large_arrays_reuse_freed_memory():
    ended = subprocess.run(
        [sys.executable, "-c", COUNT], capture_output=True, text=True, timeout=60, check=True
    )
    before, after = map(int, ended.stdout.split())
    assert after < before / 10
