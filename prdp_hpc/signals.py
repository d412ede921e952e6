"""Signals that come before training has begun: while libraries load, and between the runs of a comparison."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from prdp_hpc.launch import under_torchrun

SIGNALS = (signal.SIGUSR1,) if under_torchrun() else (signal.SIGUSR1, signal.SIGTERM)
"""SIGUSR1: what job scripts ask SLURM for before the time limit; SIGTERM: what SLURM sends when it preempts or cancels.

torchrun sends SIGTERM to the ranks that are left when one has died, which must end them."""

_held: list[int] = []


@contextmanager
def hold_signals() -> Iterator[None]:
    """Note SIGUSR1 and SIGTERM instead of ending by them; the next `PreemptionWatch` takes them up. On the main thread only.

    To be entered once more after `import mpi4py.MPI` and `petsc4py.PETSc`, which set handlers of their own: one ignores the
    signal, the other aborts.
    """
    earlier = {number: signal.signal(number, lambda number, _: hold(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            # None: set by a library in C, which Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def hold(number: int) -> None:
    """Keep a signal for the next `PreemptionWatch`."""
    _held.append(number)


def take_held() -> bool:
    """Whether a signal is held; it is no more."""
    found = bool(_held)
    _held.clear()
    return found
