"""Graceful shutdown when the cluster preempts a job."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import numpy as np
from mpi4py import MPI

from prdp_hpc.console import note
from prdp_hpc.distributed.signals import PREEMPTED, SIGNALS, hold, is_held, take_held
from prdp_hpc.errors import check_members

_STOP, _REQUEST = 1, 2
"""Bits of the numbers that the ranks reduce."""


class Preempted(SystemExit):
    """Ends the process with exit code 85 after a checkpoint; it is not an error."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


def stop_requested(comm: MPI.Comm) -> bool:
    """Whether a signal is held by `hold_signals` on one of the ranks; collective."""
    return bool(comm.allreduce(is_held(), op=MPI.LOR))


def leave_if_stopped(comm: MPI.Comm, during: str) -> None:
    """Exit with code 85 on all ranks if a signal has arrived on one of them; collective.

    It is for the time outside of training, in which `hold_signals` stores the signals: call it
    between two pieces of work, where the files are in a state from which a later start continues.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        The ranks that stop together.
    during : str
        What was interrupted and how it continues, as the end of the message.

    Raises
    ------
    Preempted
        On all ranks, if a signal is held on one of them.
    """
    if stop_requested(comm):
        if comm.rank == 0:
            note(f"prdp-hpc: stopped by a signal {during}")
        take_held()
        raise Preempted


class PreemptionWatch:
    """Detects SIGUSR1 and SIGTERM, so that all ranks stop after the same step.

    It is a context manager on every rank of `comm`, and includes signals that arrived earlier and
    were held by `hold_signals`. Outside the main thread Python delivers no signals, so only held
    signals are detected. A signal on one rank reaches the others by a reduction that runs during
    the next step, so each check takes microseconds; all ranks stop after the same step, at most one
    step later. The same reduction distributes a request of the program, e.g. for a checkpoint that
    is due by the clock of one rank.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        The ranks that stop together.

    Attributes
    ----------
    requested : bool
        Whether a rank had a request in the step whose reduction `after_step` has completed; equal
        on all ranks.

    Raises
    ------
    InputError
        If `comm` is no communicator.

    Examples
    --------
    >>> import os, signal
    >>> from mpi4py import MPI
    >>> from prdp_hpc import PreemptionWatch
    >>> with PreemptionWatch(MPI.COMM_SELF) as watch:
    ...     print(watch.after_step())
    ...     os.kill(os.getpid(), signal.SIGTERM)
    ...     print(watch.now())
    False
    True
    """

    def __init__(self, comm: MPI.Comm) -> None:
        check_members("comm", comm, ("Iallreduce", "allreduce"), "a communicator, e.g. mesh.world")
        self._comm, self._signalled, self.requested = comm, False, False
        self._earlier: dict[signal.Signals, Any] = {}
        self._mine, self._any = np.zeros(1, dtype=np.int32), np.zeros(1, dtype=np.int32)
        self._request: MPI.Request | None = None

    def __enter__(self) -> PreemptionWatch:
        if threading.current_thread() is threading.main_thread():
            self._earlier = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        self._signalled |= take_held()
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        if kind is None:
            self._round_ended()
            if self._signalled:
                # This run has ended, but the next runs of a comparison must see the signal too.
                hold(signal.SIGUSR1)
        for number, handler in self._earlier.items():
            # None: a handler set in C, which Python cannot restore.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def after_step(self, request: bool = False) -> bool:
        """Return whether all ranks stop after this step; collective, and equal on all ranks.

        Parameters
        ----------
        request : bool, default False
            Request of this rank, for the attribute `requested` of all ranks: after the next step,
            or at once on one rank.

        Returns
        -------
        bool
            Whether a rank has received a signal.
        """
        if self._comm.size == 1:
            self.requested = request
            return self._signalled
        if self._round_ended():
            return True
        self._mine[0] = _STOP * self._signalled + _REQUEST * request
        self._request = self._comm.Iallreduce(self._mine, self._any, op=MPI.BOR)
        return False

    def now(self) -> bool:
        """Return whether a rank has received a signal, by a blocking reduction; collective."""
        known = self._round_ended()
        return bool(self._comm.allreduce(known or self._signalled, op=MPI.LOR))

    def _round_ended(self) -> bool:
        """Wait for the reduction that is in progress; returns whether the ranks stop."""
        self.requested = False
        if self._request is None:
            return False
        self._request.Wait()
        self._request = None
        self.requested = bool(self._any[0] & _REQUEST)
        return bool(self._any[0] & _STOP)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
