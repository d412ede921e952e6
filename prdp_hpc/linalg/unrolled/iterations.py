"""The iterations of a solve, and the check of their result; on any device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.linalg import errors
from prdp_hpc.linalg.arrays import has_bad_numbers
from prdp_hpc.linalg.reductions import anywhere
from prdp_hpc.linalg.refinement_level import Refinement
from prdp_hpc.linalg.residual_checks import SOLVED
from prdp_hpc.linalg.unrolled.convergence import DefaultTest, last_iteration
from prdp_hpc.linalg.unrolled.methods import Method
from prdp_hpc.linalg.unrolled.reductions import dots
from prdp_hpc.linalg.unrolled.state import State
from prdp_hpc.linalg.unrolled.system import System
from prdp_hpc.petsc import PETSc

PROJECTED = 1e-13
"""Relative remainder of a right-hand side in the nullspace that is rounding."""
_REASONS = PETSc.KSP.ConvergedReason


Advance = Callable[[Method[Any], Any, Tensor, State, DefaultTest], State]
"""From a state and its test to those some iterations later: `(method, system, b, state, test)`."""


@dataclass(frozen=True)
class Criteria:
    """The stopping criteria of a solve; PETSc manual page: KSPSetTolerances.

    Attributes
    ----------
    level : iterations and relative tolerance.
    absolute, divergence : tolerance of the residual itself, and growth that is a failure.
    """

    level: Refinement
    absolute: float = 0.0
    divergence: float = 1e5


def iterate(
    method: Method[Any],
    system: System,
    b: Tensor,
    criteria: Criteria,
    whole: Tensor | None = None,
    offer: Callable[[int, State], None] | None = None,
    advance: Advance | None = None,
) -> tuple[Tensor, DefaultTest]:
    """The last iterates `(B, n_local)`, and the convergence test; collective.

    Parameters
    ----------
    method, system : the iteration, and its system.
    b : right-hand sides `(B, n_local)`.
    criteria : the stopping criteria.
    whole : the right-hand sides that a tolerance refers to; b is the residual of a guess.
    offer : called with every state before its iteration.
    advance : does some of the first iterations in another way.
    """
    squares = None
    if whole is not None and not criteria.level.is_fixed:
        squares = _squares(method, system, in_range(system, whole))
    test = DefaultTest(b, criteria.level, criteria.absolute, criteria.divergence, squares)
    right = in_range(system, b)
    state = method.start(system, right, test)
    if test.is_tested:
        test.vanished = (test.reference == 0.0) & right.detach().any(dim=1, keepdim=True)
    if advance is not None:
        state = advance(method, system, right, state, test)
    while test.goes_on:
        if offer is not None:
            offer(test.iteration, state)
        state = method.step(system, right, state, test)
    test.finish()
    return solution(method, system, state), test


def solution(method: Method[Any], system: System, state: State) -> Tensor:
    """The iterate of a state, without its part in the nullspace."""
    x = method.solution(system, state)
    # With left preconditioning every iterate is orthogonal to the nullspace already.
    return system.without_nullspace(x) if system.right_side else x


def judge(
    direction: str,
    name: str,
    system: System,
    level: Refinement,
    test: DefaultTest,
    b: Tensor,
    x: Tensor,
    rounding: float = SOLVED,
    where: Callable[[], str] | None = None,
) -> Tensor:
    """Check the result; returns the right-hand sides `(B, 1)` with a breakdown at the solution.

    Collective.

    Parameters
    ----------
    direction, name : "forward" or "adjoint", and the name of the method, for messages.
    system, level, test, b, x : the data of the solve.
    rounding : a relative residual that is rounding.
    where : a description of a row that explains a failure.

    Raises
    ------
    SolveError
        For NaN in b or x, a breakdown, or a tolerance that was not reached.
    """
    comm, failures = system.comm, test.failures
    is_bad = anywhere(comm, has_bad_numbers(x))
    exact = torch.zeros_like(test.exact)
    if (is_bad or failures) and anywhere(comm, has_bad_numbers(b)):
        raise errors.bad_numbers(direction, name, 0, level, in_input=True)
    if test.vanished is not None and anywhere(comm, bool(test.vanished.any())):
        raise errors.vanished(direction, name, level)
    for reason, iteration, which in failures:
        if reason == _REASONS.DIVERGED_NANORINF:
            raise errors.bad_numbers(direction, name, iteration, level, in_input=False)
        if (which & ~_solved(system, b, x, rounding)).any():
            raise errors.failed_solve(
                direction, name, reason, iteration, level, where() if where else ""
            )
        if level.is_fixed:
            exact = exact | which
    if is_bad:
        last = last_iteration(test.counts)
        raise errors.bad_numbers(direction, name, last, level, in_input=False)
    if level.max_it is None and test.active.any():
        last, explained = last_iteration(test.counts), where() if where else ""
        raise errors.failed_solve(direction, name, errors.MAX_IT, last, level, explained)
    return exact


def in_range(system: System, b: Tensor) -> Tensor:
    """Remove the part in the left nullspace from b; exactly 0 where only rounding is left."""
    right = system.without_left_nullspace(b)
    if right is b:
        return b
    rr, bb = dots(system.comm, (right, right), (b, b))
    is_known = (bb > 0.0) & torch.isfinite(bb)  # squares of numbers of extreme size are not
    return torch.where(is_known & (rr <= PROJECTED**2 * bb), 0.0, right)


def norms(method: Method[Any], system: System, b: Tensor) -> Tensor:
    """The norms `(B, 1)` of right-hand sides in the norm of the method's residuals."""
    return _squares(method, system, in_range(system, b)).sqrt()


def _squares(method: Method[Any], system: System, b: Tensor) -> Tensor:
    """The squared norms of right-hand sides in the norm of the method's residuals."""
    is_plain = method.norm == PETSc.KSP.NormType.UNPRECONDITIONED or system.right_side
    z = b if is_plain else system.precondition(b)
    return dots(system.comm, (z, z))[0]


def _solved(system: System, b: Tensor, x: Tensor, rounding: float) -> Tensor:
    """Whether the residual is at the level of rounding, e.g. after a breakdown of a method that had
    converged; `(B, 1)`.
    """
    with torch.no_grad():
        residual = b - system.product(x)
        rr, bb = dots(system.comm, (residual, residual), (b, b))
    return rr <= rounding**2 * bb
