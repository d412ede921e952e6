"""Signals that come before training has begun: while libraries load, and between the runs of a
comparison.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prdp_hpc.distributed.launch import under_torchrun

PREEMPTED = 85
"""Exit code of a run that saved its state because of a signal, and wants to be started again with
--resume.
"""

SIGNALS = (signal.SIGUSR1,) if under_torchrun() else (signal.SIGUSR1, signal.SIGTERM)
"""SIGUSR1: what job scripts ask SLURM for before the time limit; SIGTERM: what SLURM sends when it
preempts or cancels.

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
    """Note SIGUSR1 and SIGTERM instead of ending by them; the next `PreemptionWatch` takes them up.
    On the main thread only.

    A process that leaves with `PREEMPTED` ignores them from then on: job scripts and SLURM tell it
    more than once, and its exit code must stay.
    """
    earlier: dict[signal.Signals, Any] = {
        number: signal.signal(number, lambda number, _: hold(number)) for number in SIGNALS
    }
    try:
        yield
    except SystemExit as end:
        if end.code == PREEMPTED:
            earlier = dict.fromkeys(SIGNALS, signal.SIG_IGN)
        raise
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
