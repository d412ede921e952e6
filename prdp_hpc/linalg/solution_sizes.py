"""Which solutions are so large that their residuals have to be computed.

Krylov methods stop on singular matrices as if they had converged, with a solution that is large
where it is wrong. Computing each residual would take a product per solve; the sizes of all
right-hand sides and solutions of a batch take one reduction.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from mpi4py import MPI

from prdp_hpc.linalg.arrays import Numbers, inner, squares_of
from prdp_hpc.linalg.reductions import summed

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


def judged_sizes(
    comm: MPI.Comm, scales: list[Scale], squares: list[list[float]], x: list[Numbers]
) -> Sizes:
    """The sizes of all solutions `x (R, n_local)` of each matrix; one reduction.

    Parameters
    ----------
    scales : of each matrix; empty where solutions are not judged.
    squares : of each matrix, the squared lengths of its R right-hand sides on this rank.
    """
    if not scales or not any(scale.norm for scale in scales):
        totals = [0.0, 0.0]
        for solutions, own_squares in zip(x, squares, strict=True):
            totals[0] += inner(solutions, solutions)
            totals[1] += sum(own_squares)
        totals = summed(comm, totals)
        return Sizes(totals[0], totals[1], [])
    right = [square for one in squares for square in one]
    own = [square for one in x for square in squares_of(one)]
    sums = summed(comm, [*own, *right, *[scale.ignores_rows for scale in scales]])
    count, rights = len(right), len(squares[0])
    of_x, of_right, ignored = sums[:count], sums[count : 2 * count], sums[2 * count :]
    places = []
    for place in range(count):
        m, r = divmod(place, rights)
        if is_suspicious(Scale(scales[m].norm, bool(ignored[m])), of_x[place], of_right[place]):
            places.append((m, r))
    return Sizes(sum(of_x), sum(of_right), places)


def is_suspicious(scale: Scale, of_x: float, of_right: float) -> bool:
    """Whether a solution is too large for its right-hand side, or its preconditioner ignores rows;
    the squares of both on all ranks.
    """
    size = math.sqrt(of_x) * scale.norm
    too_large = scale.ignores_rows or not size <= LARGE * math.sqrt(of_right)
    return scale.norm > 0.0 and too_large
