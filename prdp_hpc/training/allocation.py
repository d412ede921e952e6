"""Memory allocation by the C library during training."""

from __future__ import annotations

import ctypes

# Source: malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for later allocations, permanently for the whole process.

    Each training step allocates and frees the same large arrays, e.g. activations and gradients.
    By default glibc returns each of them to the system, which has to clear all pages when they are
    allocated again; this takes a quarter of a step of the paper's 2-D emulator on a CPU. The peak
    memory of the process hardly changes. With another C library this function has no effect.

    References: mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
