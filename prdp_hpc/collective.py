"""Errors that all ranks of a communicator raise together, so that none waits for one that left."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from mpi4py import MPI

T = TypeVar("T")
RENDEZVOUS_SECONDS = 5.0
"""A rank that fails alone must not wait long for the others to fail too."""


def raise_together(comm: MPI.Comm, error: Exception | None) -> None:
    """Raise on every rank as soon as one rank has an error; collective.

    The rank that found it raises its own error; the others raise one of the same type that names
    the rank. Does nothing when no rank has an error.
    """
    if comm.size == 1:
        if error is not None:
            raise error
        return
    first = comm.allreduce(comm.rank if error is not None else comm.size, op=MPI.MIN)
    if first == comm.size:
        return
    reported = comm.bcast(error if comm.rank == first else None, root=first)
    if error is not None:
        raise error
    raise type(reported)(f"rank {first}: {reported}")


def call_together(comm: MPI.Comm, function: Callable[[], T]) -> T:
    """What `function` returns on this rank; if it raises on one rank, every rank raises as in
    `raise_together`.

    Collective. Where `function` is collective too, it must fail on all its ranks alike.
    """
    try:
        result = function()
    except Exception as error:
        raise_together(comm, error)
        raise
    raise_together(comm, None)
    return result


def all_ranks_come(comm: MPI.Comm) -> bool:
    """Whether every rank calls this, or a non-blocking barrier, within a few seconds; for ranks
    whose work has failed.
    """
    request = comm.Ibarrier()
    end = time.monotonic() + RENDEZVOUS_SECONDS
    while time.monotonic() < end:
        if request.Test():
            return True
        time.sleep(0.01)
    return False


def abort(comm: MPI.Comm, code: int) -> None:
    """End the whole job after what this rank has said last."""
    # What the launcher has not read when it is told to end all is lost.
    time.sleep(0.5)
    comm.Abort(code)


def abort_on_error(comm: MPI.Comm) -> None:
    """Make an exception that nothing catches end the whole job instead of leaving the other ranks
    waiting.

    Sets `sys.excepthook`; a no-op on one rank. MPI_Abort ends every process of the job within
    seconds.
    """
    if comm.size == 1:
        return

    def hook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        # Not sys.stderr: torch.distributed puts a hook around this one that keeps what is written
        # there until the end.
        print(
            f"rank {comm.rank} failed, ending the job on all {comm.size} ranks:",
            file=sys.__stderr__,
        )
        traceback.print_exception(kind, value, trace, file=sys.__stderr__)
        if sys.__stderr__ is not None:
            sys.__stderr__.flush()
        abort(comm, 1)

    sys.excepthook = hook
