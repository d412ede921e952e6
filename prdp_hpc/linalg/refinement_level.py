"""The level of a solve, and the levels of all solvers, for steps that are recomputed."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from prdp_hpc.errors import InputError
from prdp_hpc.number_checks import check_count, check_number, is_integer

DEFAULT_MAX_IT = 10_000


@dataclass(frozen=True)
class Refinement:
    """The level of a solve: a number of iterations, a relative tolerance, or both.

    - `Refinement(max_it=K)`: exactly K iterations; no residual norm is computed. These are PRDP's
      levels. Exceptions: pipelined methods (pipecg, pgmres, …) and qmrcgs test a norm and end at a
      relative residual of 1e-10, since rounding makes further iterations wrong; bicg, tfqmr and
      singular systems with a declared nullspace end at 1e-14; pipecg2 takes tolerances only.
    - `Refinement(rtol=r)`: iterate until `‖b − A x‖ ≤ r ‖b‖`; it is an error if 10 000 iterations
      do not reach it.
    - Both: the iteration ends at the first of the two; reaching `max_it` is not an error.

    Without arguments the level is `rtol=1e-8`.

    The norm is the one that the KSP tests: by default `‖M⁻¹ (b − A x)‖ ≤ r ‖M⁻¹ b‖` for methods
    with a preconditioner M on the left (cg, gmres, bcgs, richardson), the residual itself for
    fgmres, gcr and steepest_descent, and a norm of `Aᵀ (b − A x)` for lsqr, cgls and cgne. So
    `‖b − A x‖ / ‖b‖` may be larger than r, by up to the condition number of M. Options that test
    the residual itself are {"ksp_pc_side": "right", "ksp_norm_type": "unpreconditioned"} for gmres
    and bcgs, and {"ksp_norm_type": "unpreconditioned"} for cg.

    After the test of the KSP the residual of the solution is computed, once per set-up, and always
    for methods that only update a residual (bcgs, cgs, tfqmr, …), but not for `pc="eisenstat"` and
    absolute tolerances. It is a `SolveError` if its norm is above `100 r`, or if the residual
    itself, which a nearly singular M may hide, is above 0.1 (for r above 1e-3: up to 0.5, or 10 r)
    of b and of the terms of a row.

    Parameters
    ----------
    max_it : int, optional
        Number of iterations, at least 1.
    rtol : float, optional
        Relative tolerance, between 0 and 1.

    Attributes
    ----------
    is_fixed : bool
        Whether the number of iterations is fixed, so that no norm is needed.

    Raises
    ------
    InputError
        Unless `max_it ≥ 1` and `0 < rtol < 1`.

    Notes
    -----
    PETSc manual page: KSPSetTolerances.

    Examples
    --------
    >>> from prdp_hpc import Refinement
    >>> Refinement(max_it=5).is_fixed
    True
    >>> Refinement.of(1e-6)
    Refinement(max_it=None, rtol=1e-06)
    >>> print(Refinement(max_it=100, rtol=1e-3))
    max_it=100, rtol=0.001
    """

    max_it: int | None = None
    rtol: float | None = None
    is_fixed: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.max_it is None and self.rtol is None:
            object.__setattr__(self, "rtol", 1e-8)
        if self.max_it is not None:
            check_count("max_it", self.max_it)
            object.__setattr__(self, "max_it", int(self.max_it))
        if self.rtol is not None:
            check_number("rtol", self.rtol, above=0, below=1)
        object.__setattr__(self, "is_fixed", self.rtol is None)

    @classmethod
    def of(cls, level: Refinement | int | float) -> Refinement:
        """Return a level: an int is a number of iterations, a float a relative tolerance.

        Parameters
        ----------
        level : Refinement, int or float
            The level; a `Refinement` is returned unchanged.

        Returns
        -------
        Refinement
            The level.

        Raises
        ------
        InputError
            For another type, or a number out of range.
        """
        if isinstance(level, Refinement):
            return level
        if is_integer(level):
            return cls(max_it=int(level))
        if isinstance(level, float):
            return cls(rtol=level)
        raise InputError(
            f"a level is a Refinement, an int (iterations) or a float (rtol), not {level!r}"
        )

    def __str__(self) -> str:
        parts = [f"max_it={self.max_it}"] if self.max_it is not None else []
        return ", ".join(parts + ([f"rtol={self.rtol:g}"] if self.rtol is not None else []))


class Levelled(Protocol):
    """A solver whose levels can be read and set."""

    @property
    def own_levels(self) -> tuple[Any, ...]:
        """The levels that `refine` changes."""
        ...

    def set_levels(self, *levels: Any) -> None:
        """Set the levels that `own_levels` returned."""
        ...


Levels = list[tuple[weakref.ref[Any], tuple[Any, ...]]]

_SOLVERS: weakref.WeakSet[Any] = weakref.WeakSet()


def register(solver: Levelled) -> None:
    """Add a new solver, by a weak reference."""
    _SOLVERS.add(solver)


def current_levels() -> Levels:
    """The levels of all existing solvers."""
    return [(weakref.ref(solver), solver.own_levels) for solver in list(_SOLVERS)]


@contextmanager
def at_levels(levels: Levels) -> Iterator[None]:
    """Set these levels during a block; afterwards each solver has its earlier levels."""
    changed = [
        (solver, then, now)
        for reference, then in levels
        if (solver := reference()) is not None and (now := solver.own_levels) != then
    ]
    for solver, then, _ in changed:
        solver.set_levels(*then)
    try:
        yield
    finally:
        for solver, _, now in changed:
            solver.set_levels(*now)
