"""A condition that holds on any rank."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from prdp_hpc.distributed.communicators import private


def anywhere(comm: MPI.Comm, condition: bool) -> bool:
    """Whether a condition holds on any rank; collective."""
    if comm.size == 1:
        return condition
    flag = np.array([condition])
    private(comm).sums.Allreduce(MPI.IN_PLACE, flag, op=MPI.LOR)
    return bool(flag[0])
