"""Which solutions are so large that their residuals have to be computed.

Krylov methods stop on singular matrices as if they had converged, with a solution that is large
where it is wrong. Computing each residual would take a product per solve; the sizes of all
right-hand sides and solutions of a batch take one reduction.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from prdp_hpc.distributed.communicators import private
from prdp_hpc.linalg.arrays import Numbers, squares_of_rows
from prdp_hpc.linalg.reductions import sum_of_squares

LARGE = 1e10
"""A size of the solution, relative to that of right-hand side and matrix, that is looked at."""


class Scale(NamedTuple):
    """A matrix as far as the size of its solutions is judged.

    norm : the largest sum of the sizes of a row's entries; 0: solutions are not judged.
    ignores_rows : whether the preconditioner puts a 1 where this rank's diagonal has a 0.
    """

    norm: float
    ignores_rows: bool


def suspicious_solutions(
    comm: MPI.Comm, scales: list[Scale], right: Numbers, x: Numbers
) -> tuple[float, list[tuple[int, int]]]:
    """The sum of the squares of all solutions `x (M, R, n_local)`, and the places `(m, r)` of those
    that are too large for `right (M, R, n_local)`, or whose preconditioner ignores rows; one
    reduction. `scales`: of each matrix; empty where solutions are not judged.
    """
    if not scales:
        return sum_of_squares(comm, x), []
    flat = x.shape[0] * x.shape[1], x.shape[2]
    flags = [scale.ignores_rows for scale in scales]
    squares = (squares_of_rows(rows.reshape(flat)) for rows in (x, right))
    sums = np.concatenate([*squares, flags])
    if comm.size > 1:
        private(comm).sums.Allreduce(MPI.IN_PLACE, sums)
    of_x, of_right = sums[: 2 * flat[0]].reshape(2, *x.shape[:2])
    norms = np.array([scale.norm for scale in scales])[:, None]
    with np.errstate(invalid="ignore"):
        fits = np.sqrt(of_x) * norms <= LARGE * np.sqrt(of_right)
    ignores_rows = sums[2 * flat[0] :, None] > 0
    places = np.argwhere((norms > 0) & (~fits | ignores_rows))
    return float(of_x.sum()), [(int(m), int(r)) for m, r in places]
