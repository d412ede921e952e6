"""The levels of a nonlinear solve and its derivatives."""

from __future__ import annotations

from dataclasses import dataclass

from prdp_hpc.linalg.refinement_level import Refinement

EISENSTAT_WALKER = "eisenstat_walker"
TIGHTEST = 1e-10
"""The smallest tolerance of an adjoint solve whose level is a number of Newton iterations."""


@dataclass(frozen=True)
class Levels:
    """The levels of one solve.

    Attributes
    ----------
    newton : level of Newton's method.
    inner : level of its linear solves; None: by Eisenstat and Walker.
    adjoint : level of the adjoint's linear solve.
    """

    newton: Refinement
    inner: Refinement | None
    adjoint: Refinement


def adjoint_level(wanted: Refinement, inner: Refinement | None, own: Refinement) -> Refinement:
    """The level of the one linear solve of the adjoint, see `NonlinearSolver.refine`.

    `wanted`: a number of Newton iterations or a tolerance; `own`: the linear solver's.
    """
    count = wanted.max_it
    if count is None or wanted.rtol is not None:
        return Refinement(rtol=wanted.rtol)
    if inner is None:
        return own
    iterations = None if inner.max_it is None else inner.max_it * count
    tolerance = None if inner.rtol is None else max(inner.rtol**count, min(TIGHTEST, inner.rtol))
    return Refinement(max_it=iterations, rtol=tolerance)
