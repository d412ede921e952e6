"""Reductions of a few numbers over all ranks."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from prdp_hpc.distributed.communicators import private
from prdp_hpc.linalg.arrays import Numbers, inner


def anywhere(comm: MPI.Comm, condition: bool) -> bool:
    """Whether a condition holds on any rank; collective."""
    if comm.size == 1:
        return condition
    flag = np.array([condition])
    private(comm).sums.Allreduce(MPI.IN_PLACE, flag, op=MPI.LOR)
    return bool(flag[0])


def sums_of_squares(comm: MPI.Comm, *arrays: Numbers) -> list[float]:
    """The sum of the squares of all ranks' numbers of each array; NaN or infinity if one of them is
    NaN or infinite, infinity too if a square overflows; one reduction.
    """
    own = [inner(numbers, numbers) for numbers in arrays]
    if comm.size == 1:
        return own
    totals = np.array(own)
    private(comm).sums.Allreduce(MPI.IN_PLACE, totals)
    found: list[float] = totals.tolist()
    return found
