"""Leaving in order when the cluster wants its nodes back."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import numpy as np
from mpi4py import MPI

from prdp_hpc.distributed.signals import PREEMPTED, SIGNALS, hold, take_held


class Preempted(SystemExit):
    """Ends the process with exit code 85 once its state is saved; no error, and not caught as
    one.
    """

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


class PreemptionWatch:
    """Notes SIGUSR1 and SIGTERM (also those held by `hold_signals`), and lets all ranks leave after
    the same step.

    A context manager on every rank of `comm`. Outside the main thread, where Python delivers no
    signals, only those that were held before are noted. A rank that was signalled tells the others
    with a reduction that completes while the next step is computed, so that asking costs
    microseconds; all leave after the same step, at most one later.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        self._comm, self._signalled = comm, False
        self._earlier: dict[signal.Signals, Any] = {}
        self._mine, self._any = np.zeros(1, dtype=np.int32), np.zeros(1, dtype=np.int32)
        self._request: MPI.Request | None = None

    def __enter__(self) -> PreemptionWatch:
        if threading.current_thread() is threading.main_thread():
            self._earlier = {number: signal.signal(number, self._note) for number in SIGNALS}
        self._signalled |= take_held()
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        if kind is None:
            self._round_ended()
            if self._signalled:
                # The run has come to its end; those after it in a comparison must not go on as if
                # nothing had been said.
                hold(signal.SIGUSR1)
        for number, handler in self._earlier.items():
            # None: set by a library in C, which Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def after_step(self) -> bool:
        """Whether all ranks leave after this step; collective, and equal on all ranks."""
        if self._comm.size == 1:
            return self._signalled
        if self._round_ended():
            return True
        self._mine[0] = self._signalled
        self._request = self._comm.Iallreduce(self._mine, self._any, op=MPI.MAX)
        return False

    def now(self) -> bool:
        """The same without delay, by a reduction that all ranks wait for."""
        known = self._round_ended()
        return bool(self._comm.allreduce(known or self._signalled, op=MPI.LOR))

    def _round_ended(self) -> bool:
        """Wait for the reduction that is under way; what it said."""
        if self._request is None:
            return False
        self._request.Wait()
        self._request = None
        return bool(self._any[0])

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
