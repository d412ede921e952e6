"""How memory is taken from the system while a network trains."""

from __future__ import annotations

import ctypes

# Source: malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Let the process keep the memory that it frees, for what it allocates next; for the whole
    process, and for good.

    A training step allocates and frees the same large arrays again and again: activations,
    gradients. glibc gives each of them back to the system, which has to clear all its pages when
    they are next taken: a quarter of a step of the paper's 2-D emulator on a CPU. The process's
    peak memory hardly changes. Does nothing where the C library is another one.

    Source: mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
