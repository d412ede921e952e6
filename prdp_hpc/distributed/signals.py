"""Signals that arrive outside of training: while libraries load, and between the runs of a
comparison.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prdp_hpc.distributed.launch import under_torchrun

PREEMPTED = 85
"""Exit code of a run that wrote a checkpoint because of a signal; restart it with --resume."""

SIGNALS = (signal.SIGUSR1,) if under_torchrun() else (signal.SIGUSR1, signal.SIGTERM)
"""SIGUSR1, which SLURM sends before the time limit if the job script requests it, and SIGTERM,
which SLURM sends on preemption and cancellation.

torchrun sends SIGTERM to the remaining ranks when one has failed, which must end them."""

_held: list[int] = []
_loading: list[None] = []


class StoppedError(Exception):
    """A signal is held while data are read; it ends `stoppable_loading` on all ranks together."""


@contextmanager
def block_signals() -> Iterator[None]:
    """Block SIGUSR1 and SIGTERM while MPI is loaded, because MPI sets a handler."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def hold_signals() -> Iterator[None]:
    """Store SIGUSR1 and SIGTERM for the next `PreemptionWatch` or `leave_if_stopped` instead of
    ending the process. On the main thread only.

    A process that exits with `PREEMPTED` ignores both signals from then on, because job scripts and
    SLURM send them repeatedly, and the exit code must not change.
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
            # None: a handler set in C, which Python cannot restore.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def hold(number: int) -> None:
    """Store a signal for the next `PreemptionWatch`."""
    _held.append(number)


def is_held() -> bool:
    """Whether a signal is held; it stays."""
    return bool(_held)


def take_held() -> bool:
    """Whether a signal was held; it is removed."""
    found = bool(_held)
    _held.clear()
    return found


@contextmanager
def stoppable_loading() -> Iterator[None]:
    """Let `stop_if_held` raise in this block."""
    _loading.append(None)
    try:
        yield
    finally:
        _loading.pop()


def stop_if_held() -> None:
    """Raise `StoppedError` if a signal is held, inside of `stoppable_loading`; for loops that run
    for a long time within one `call_together`, and on each rank a different number of times.
    """
    if _loading and _held:
        raise StoppedError
