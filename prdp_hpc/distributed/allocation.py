"""Memory allocation by the C library."""

from __future__ import annotations

import ctypes
import resource

# Source: malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for later allocations, permanently for the whole process.

    Each training step allocates and frees the same large arrays, e.g. activations and gradients.
    By default glibc returns each of them to the system, which has to clear all pages when they are
    allocated again; this takes a quarter of a step of the paper's 2-D emulator on a CPU. The peak
    memory of the process hardly changes. With another C library this function has no effect.

    References: mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD.
    """
    _set((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))


def share_arenas_under_a_limit() -> None:
    """Let new threads allocate from the memory of the main thread, permanently for the whole
    process, if its address space is limited (`ulimit -v`, `h_vmem` of a batch system).

    By default glibc reserves 64 MiB of addresses for each thread that allocates. The threads of
    torch.distributed on two ranks reserve 0.45 GiB like this, of which they use a few kilobytes,
    and an allocation of the network fails instead. Without a limit nothing is changed, since
    addresses cost nothing. With another C library this function has no effect.

    References: mallopt(3), M_ARENA_MAX.
    """
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        _set((_M_ARENA_MAX, 1))


def _set(*parameters: tuple[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, value in parameters:
            mallopt(name, value)
