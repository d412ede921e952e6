"""Which solutions are so large that their residuals have to be computed.

Krylov methods stop on singular matrices as if they had converged, with a solution that is large
where it is wrong. Computing each residual would take a product per solve; the sizes of all
right-hand sides and solutions of a batch take one reduction.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from prdp_hpc.distributed.communicators import private
from prdp_hpc.linalg.arrays import Numbers, inner
from prdp_hpc.linalg.reductions import sums_of_squares

LARGE = 1e10
"""A size of the solution, relative to that of right-hand side and matrix, that is looked at."""


class Scale(NamedTuple):
    """A matrix as far as the size of its solutions is judged.

    norm : the largest sum of the sizes of a row's entries; 0: solutions are not judged.
    ignores_rows : whether the preconditioner puts a 1 where this rank's diagonal has a 0.
    """

    norm: float
    ignores_rows: bool


class Sizes(NamedTuple):
    """Sizes of a batch of solutions.

    of_x, of_right : the sums of the squares of all solutions and of all right-hand sides; not
        finite if one of them has NaN or infinity.
    suspicious : the places `(m, r)` of solutions that are too large, or whose preconditioner
        ignores rows.
    """

    of_x: float
    of_right: float
    suspicious: list[tuple[int, int]]


def judged_sizes(comm: MPI.Comm, scales: list[Scale], right: Numbers, x: Numbers) -> Sizes:
    """The sizes of all solutions `x (M, R, n_local)` for `right (M, R, n_local)`; one reduction.
    `scales`: of each matrix; empty where solutions are not judged.
    """
    if not any(scale.norm for scale in scales):
        totals = sums_of_squares(comm, x, right)
        return Sizes(totals[0], totals[1], [])
    # Numbers of Python, because arrays of a few take longer than small solves may.
    sums = [inner(row, row) for batch in (x, right) for rows in batch for row in rows]
    sums += [scale.ignores_rows for scale in scales]
    if comm.size > 1:
        buffer = np.array(sums, dtype=np.float64)
        private(comm).sums.Allreduce(MPI.IN_PLACE, buffer)
        sums = buffer.tolist()
    count, rights = x.shape[0] * x.shape[1], x.shape[1]
    of_x, of_right, ignored = sums[:count], sums[count : 2 * count], sums[2 * count :]
    places = []
    for place in range(count):
        m, r = divmod(place, rights)
        size = math.sqrt(of_x[place]) * scales[m].norm
        if ignored[m] or not size <= LARGE * math.sqrt(of_right[place]):
            places.append((m, r))
    return Sizes(sum(of_x), sum(of_right), places)
