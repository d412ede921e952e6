"""Allocation by the C library: freed memory is reused without a request to the system, and threads
reserve no addresses where these are limited.
"""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
COUNT = """
import resource
import torch
from prdp_hpc.distributed.allocation import keep_freed_memory
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
THREADS = 6
RESERVED = f"""
import resource, sys, threading
from pathlib import Path
if len(sys.argv) > 1:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), hard))
import torch
from prdp_hpc import ProcessMesh
mesh = ProcessMesh.from_world()
def pages():
    return int(Path("/proc/self/statm").read_text().split()[0])
before, started = pages(), threading.Barrier({THREADS} + 1)
def allocate():
    torch.empty(1000)
    started.wait()
    started.wait()
threading.stack_size(2**18)
threads = [threading.Thread(target=allocate) for _ in range({THREADS})]
for thread in threads:
    thread.start()
started.wait()
print((pages() - before) * resource.getpagesize())
started.wait()
"""
ARENA = 2**26
"""Bytes of addresses that glibc reserves for a thread."""


def run(script, *arguments):
    ended = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [int(number) for number in ended.stdout.split()]


def test_large_arrays_reuse_freed_memory():
    before, after = run(COUNT)
    assert after < before / 10


def test_threads_reserve_no_addresses_where_these_are_limited():
    """The other threads' stacks are a quarter of a MiB each."""
    assert run(RESERVED)[0] > (THREADS - 1) * ARENA
    assert run(RESERVED, 2**33)[0] < ARENA
