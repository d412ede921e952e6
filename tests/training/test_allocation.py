"""Freed memory is reused without a request to the system."""

import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, sys
import torch
from prdp_hpc.training.allocation import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
sizes = (40_000_000, 100_000_000)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in sizes:
        torch.empty(size, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
# Small allocations settle between the large ones first.
print([faults() for _ in range(8)][-1])
"""


def page_faults(what):
    ended = subprocess.run(
        [sys.executable, "-c", COUNT, what], capture_output=True, text=True, timeout=60, check=True
    )
    return int(ended.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_large_arrays_reuse_freed_memory():
    assert page_faults("keep") < page_faults("leave") / 10
