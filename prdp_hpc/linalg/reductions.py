"""Reductions of a few numbers over all ranks."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from prdp_hpc.distributed.communicators import private
from prdp_hpc.linalg.arrays import Numbers, nonzero_rows, squares_of_rows


def anywhere(comm: MPI.Comm, condition: bool) -> bool:
    """Whether a condition holds on any rank; collective."""
    if comm.size == 1:
        return condition
    flag = np.array([condition])
    private(comm).sums.Allreduce(MPI.IN_PLACE, flag, op=MPI.LOR)
    return bool(flag[0])


def summed(comm: MPI.Comm, own: list[float]) -> list[float]:
    """The sums of numbers over all ranks; one reduction."""
    if comm.size == 1:
        return own
    totals = np.array(own, dtype=np.float64)
    private(comm).sums.Allreduce(MPI.IN_PLACE, totals)
    found: list[float] = totals.tolist()
    return found


def longer_rows(comm: MPI.Comm, first: Numbers, second: Numbers) -> NDArray[np.bool_]:
    """Which rows of a batch `(B, n_local)` are at least as long as those of another batch, or not
    finite; collective.
    """
    squares = np.stack([squares_of_rows(rows) for rows in (first, second)])
    private(comm).sums.Allreduce(MPI.IN_PLACE, squares)
    longer: NDArray[np.bool_] = np.logical_not(squares[0] < squares[1])
    return longer


def zero_rows(comm: MPI.Comm, right: Numbers) -> NDArray[np.bool_]:
    """Which right-hand sides of a batch `(B, n_local)` are zero on every rank; collective."""
    nonzero = nonzero_rows(right)
    private(comm).sums.Allreduce(MPI.IN_PLACE, nonzero, op=MPI.LOR)
    return np.logical_not(nonzero)
