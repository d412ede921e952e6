"""Reductions of one number over all ranks."""

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


def sum_of_squares(comm: MPI.Comm, numbers: Numbers) -> float:
    """The sum of the squares of all ranks' numbers; NaN or infinity if one of them is NaN or
    infinite, infinity too if a square overflows; collective.
    """
    own = inner(numbers, numbers)
    if comm.size == 1:
        return own
    total = np.array([own])
    private(comm).sums.Allreduce(MPI.IN_PLACE, total)
    return float(total[0])
