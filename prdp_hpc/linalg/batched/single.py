"""Iterations in single precision, with residuals in double precision around them.

A level of K iterations does K iterations in single precision. A tolerance is reached by iterative
refinement: the residual `b − A x` of the current solution is computed in double precision, and a
correction is computed in single precision and added. Sources: Wilkinson, Rounding Errors in
Algebraic Processes (1963); Carson and Higham, SIAM J. Sci. Comput. 40 (2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.linalg import errors
from prdp_hpc.linalg.arrays import has_bad_numbers, times_power_of_two
from prdp_hpc.linalg.batched.system import BatchedSystem
from prdp_hpc.linalg.reductions import anywhere
from prdp_hpc.linalg.refinement_level import DEFAULT_MAX_IT, Refinement
from prdp_hpc.linalg.scaling import exponents_of
from prdp_hpc.linalg.unrolled.convergence import DefaultTest, last_iteration
from prdp_hpc.linalg.unrolled.iterations import (
    Criteria,
    judge,
    norms,
)
from prdp_hpc.linalg.unrolled.methods import Method
from prdp_hpc.linalg.unrolled.reductions import dots

INNER = 1e-5
"""The tolerance of a correction, which single precision can reach for most matrices."""
SLOWEST = 0.5
"""Largest ratio of the residuals after and before a correction."""
ROUNDING = 1e-5
"""A relative residual that is attributed to rounding in single precision."""

Iterate = Callable[[BatchedSystem, Tensor, Criteria], tuple[Tensor, DefaultTest]]


@dataclass
class SingleSolve:
    """One solve, with its systems in both precisions.

    Attributes
    ----------
    direction, name : for messages.
    method, criteria : the iteration, and its stopping criteria.
    double, single : the system in both precisions.
    counts : iterations of each right-hand side so far, `(B, 1)`.
    """

    direction: str
    name: str
    method: Method[Any]
    criteria: Criteria
    double: BatchedSystem
    single: BatchedSystem
    counts: Tensor | None = None

    def fixed(self, b: Tensor, run: Iterate) -> tuple[Tensor, DefaultTest]:
        """K iterations by `run`; `(B, n_local)` in double precision."""
        x, test = self._correction(b, self.criteria, run)
        level = self.criteria.level
        judge(self.direction, self.name, self.double, level, test, b, x, ROUNDING)
        return x, test

    def refined(self, b: Tensor, whole: Tensor, run: Iterate) -> Tensor:
        """Iterate to the tolerance, which refers to right-hand sides `whole`.

        Raises
        ------
        SolveError
            If corrections no longer decrease the residual, or no iterations are left.
        """
        level, done = self.criteria.level, 0
        rtol, most = float(level.rtol or 0.0), level.max_it or DEFAULT_MAX_IT
        absolute = self.criteria.absolute
        target = torch.clamp(rtol * norms(self.method, self.double, whole), min=absolute)
        x, rest, size = torch.zeros_like(b), b, norms(self.method, self.double, b)
        self.counts = torch.zeros(len(b), 1, dtype=torch.int64, device=b.device)
        self._require_norms(target, size, b, whole)
        while (~(size <= target)).any() and done < most:
            is_open = ~(size <= target)
            needed = torch.where(is_open, target / size, 1.0).min()
            inner = Refinement(most - done, min(0.5, max(INNER, 0.5 * float(needed))))
            right = torch.where(is_open, rest, 0.0)
            criteria = Criteria(inner, 0.0, self.criteria.divergence)
            step, test = self._correction(right, criteria, run)
            self.counts, done = self.counts + test.counts, done + last_iteration(test.counts)
            x = x + step
            rest = b - self.double.product(x)
            before, size = size, norms(self.method, self.double, rest)
            self._require_progress(test, is_open & ~(size <= SLOWEST * before), x, done < most)
        if (~(size <= target)).any() and level.max_it is None:
            raise self._failure(errors.MAX_IT, done)
        return x

    def _require_norms(self, target: Tensor, size: Tensor, b: Tensor, whole: Tensor) -> None:
        """Raise SolveError for NaN or infinity, and for a right-hand side whose preconditioned
        residual is 0 though it is not.
        """
        level = self.criteria.level
        if not (torch.isfinite(target).all() and torch.isfinite(size).all()):
            is_input = anywhere(self.double.comm, has_bad_numbers(b))
            raise errors.bad_numbers(self.direction, self.name, 0, level, is_input)
        vanishes = (target == 0.0) & (dots(self.double.comm, (whole, whole))[0] > 0.0)
        if self.criteria.absolute == 0.0 and vanishes.any():
            raise errors.vanished(self.direction, self.name, level)

    def _correction(
        self, right: Tensor, criteria: Criteria, run: Iterate
    ) -> tuple[Tensor, DefaultTest]:
        """A correction in single precision, for right-hand sides scaled to the size of 1."""
        exponents = exponents_of(self.double.comm, right, ordinary=0)
        scaled = right if exponents is None else times_power_of_two(right, exponents, -1)
        step, test = run(self.single, scaled.float(), criteria)
        double = step.double()
        return (double if exponents is None else times_power_of_two(double, exponents)), test

    def _require_progress(self, test: DefaultTest, slow: Tensor, x: Tensor, goes_on: bool) -> None:
        """Raise SolveError for right-hand sides `(B, 1)` that a correction hardly changed."""
        if not slow.any():
            return
        level = self.criteria.level
        if anywhere(self.double.comm, has_bad_numbers(x)):
            raise errors.bad_numbers(self.direction, self.name, test.iteration, level, False)
        for reason, iteration, which in test.failures:
            if (which & slow).any():
                raise self._failure(reason, iteration)
        if goes_on:
            raise errors.too_coarse(self.direction, self.name, test.iteration, level)

    def _failure(self, reason: int, iteration: int) -> errors.SolveError:
        level = self.criteria.level
        where = "in single precision, where precision='float64' may do better"
        return errors.failed_solve(self.direction, self.name, reason, iteration, level, where)
