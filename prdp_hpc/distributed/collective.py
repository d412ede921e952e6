"""Errors that all ranks of a communicator raise together, so that no rank waits for another."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from mpi4py import MPI

from prdp_hpc.distributed.communicators import private
from prdp_hpc.distributed.job_end import (
    RENDEZVOUS_SECONDS,
    abort,
    all_ranks_come,
    completes,
    fail_alone,
)
from prdp_hpc.distributed.remote_error import RemoteError, Report

__all__ = [
    "RemoteError",
    "abort",
    "all_ranks_come",
    "call_together",
    "on_root",
    "raise_together",
    "share_or_end_job",
]

T = TypeVar("T")


def raise_together(comm: MPI.Comm, error: Exception | None) -> None:
    """Raise on every rank if one rank has an error; collective.

    A rank that has an error raises it. The others raise an instance of the same class
    and of `RemoteError`, with the rank in MPI.COMM_WORLD and that rank's traceback. Does
    nothing if no rank has an error.

    Example: `raise_together(comm, None if ok else InputError("what, where, what to do"))`.
    """
    remote = _exchange(comm, error, None)
    if error is not None:
        raise error
    if remote is not None:
        raise remote


def share_or_end_job(comm: MPI.Comm, error: Exception) -> None:
    """Ensure that no other rank waits inside a collective library call that failed on this rank.

    Call it before raising the error. It returns if the other ranks call this function with an
    error, or `raise_together`, which then raises this error there, within `RENDEZVOUS_SECONDS`.
    Otherwise it ends the job with the error and its rank, because waiting ranks cannot be released.
    """
    _exchange(comm, error, RENDEZVOUS_SECONDS)


def _exchange(
    comm: MPI.Comm, error: Exception | None, patience: float | None
) -> RemoteError | None:
    """The error of the first rank that has one, for the ranks without an error; collective."""
    if comm.size == 1:
        return None
    agreement = private(comm).agreement
    first = np.array(comm.rank if error is not None else comm.size, dtype=np.int64)
    request = agreement.Iallreduce(MPI.IN_PLACE, first, op=MPI.MIN)
    if error is not None and patience is not None and not completes(request, patience):
        fail_alone(error)
    request.Wait()
    if first == comm.size:
        return None
    mine = Report.of(error, MPI.COMM_WORLD.rank) if error is not None else None
    report: Report = agreement.bcast(mine, root=int(first))
    return report.error()


def call_together(comm: MPI.Comm, function: Callable[[], T]) -> T:
    """Call `function` and return its result; if it raises on one rank, every rank raises as in
    `raise_together`.

    Collective. If `function` is collective too, it must fail on all of its ranks or on none.
    """
    if comm.size == 1:
        return function()
    try:
        result = function()
    except Exception as error:
        raise_together(comm, error)
        raise
    raise_together(comm, None)
    return result


def on_root(comm: MPI.Comm, function: Callable[[], T]) -> T | None:
    """Call `function` on rank 0 and return its result there, None on the others; if it raises,
    every rank raises as in `raise_together`. Collective.
    """
    return call_together(comm, function if comm.rank == 0 else lambda: None)
