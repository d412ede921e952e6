"""Signals that come before training has begun: while libraries load, and between the runs of a comparison."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from prdp_hpc.launch import under_torchrun

PREEMPTED = 85
"""Exit code of a run that saved its state because of a signal, and wants to be started again with --resume."""

SIGNALS = (signal.SIGUSR1,) if under_torchrun() else (signal.SIGUSR1, signal.SIGTERM)
"""SIGUSR1: what job scripts ask SLURM for before the time limit; SIGTERM: what SLURM sends when it preempts or cancels.

torchrun sends SIGTERM to the ranks that are left when one has died, which must end them."""

_held: list[int] = []


@contextmanager
def block_signals() -> Iterator[None]:
    """Let SIGUSR1 and SIGTERM wait; for loading MPI, which sets a handler of its own."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def hold_signals() -> Iterator[None]:
    """Note SIGUSR1 and SIGTERM instead of ending by them; the next `PreemptionWatch` takes them up. On the main thread only."""
    earlier = {number: signal.signal(number, lambda number, _: _held.append(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            # None: set by a library in C, which Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def ignore_signals() -> None:
    """For a process that is about to end: SLURM and mpirun may send a signal more than once, and its exit code must stay."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def take_held() -> bool:
    """Whether a signal is held; it is no more."""
    found = bool(_held)
    _held.clear()
    return found
