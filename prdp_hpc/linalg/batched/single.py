"""Iterations in single precision, with residuals in double precision around them.

K iterations are K iterations, in numbers of half the size. A tolerance is reached by iterative
refinement: the residual `b − A x` of the solution so far is computed in double precision, a
correction is solved for in single precision, and added. Sources: Wilkinson, Rounding Errors in
Algebraic Processes (1963); Carson and Higham, SIAM J. Sci. Comput. 40 (2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.linalg import errors
from prdp_hpc.linalg.batched.scaling import exponents_of, times_power_of_two
from prdp_hpc.linalg.batched.system import BatchedSystem
from prdp_hpc.linalg.refinement_level import DEFAULT_MAX_IT, Refinement
from prdp_hpc.linalg.unrolled.convergence import DefaultTest
from prdp_hpc.linalg.unrolled.iterations import Criteria, iterate, judge, norms
from prdp_hpc.linalg.unrolled.methods import Method

INNER = 1e-5
"""The tolerance of a correction: what single precision can reach for most matrices."""
SLOWEST = 0.5
"""What one correction must leave at most of the residual."""
ROUNDING = 1e-5
"""A relative residual that is rounding in single precision."""

Iterate = Callable[[Method[Any], BatchedSystem, Tensor, Criteria], tuple[Tensor, DefaultTest]]


@dataclass
class SingleSolve:
    """One solve, with its systems in both precisions.

    Attributes
    ----------
    direction, name : for messages.
    method, criteria : the iteration, and when it stops.
    double, single : the system.
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

    def refined(self, b: Tensor, whole: Tensor) -> Tensor:
        """To the tolerance, which refers to right-hand sides `whole`.

        Raises
        ------
        SolveError
            Where corrections no longer make the residual smaller, or no iterations are left.
        """
        level, done = self.criteria.level, 0
        rtol, most = float(level.rtol or 0.0), level.max_it or DEFAULT_MAX_IT
        absolute = self.criteria.absolute
        target = torch.clamp(rtol * norms(self.method, self.double, whole), min=absolute)
        x, rest, size = torch.zeros_like(b), b, norms(self.method, self.double, b)
        self.counts = torch.zeros(len(b), 1, dtype=torch.int64, device=b.device)
        while (size > target).any() and done < most:
            is_open = size > target
            needed = torch.where(is_open, target / size, 1.0).min()
            inner = Refinement(most - done, min(0.5, max(INNER, 0.5 * float(needed))))
            right = torch.where(is_open, rest, 0.0)
            criteria = Criteria(inner, 0.0, self.criteria.divergence)
            step, test = self._correction(right, criteria, iterate)
            self.counts, done = self.counts + test.counts, done + test.iteration
            x = x + step
            rest = b - self.double.product(x)
            before, size = size, norms(self.method, self.double, rest)
            self._require_progress(test, is_open & ~(size <= SLOWEST * before), b, x, done < most)
        if (size > target).any() and level.max_it is None:
            raise self._failure(errors.MAX_IT, done)
        return x

    def _correction(
        self, right: Tensor, criteria: Criteria, run: Iterate
    ) -> tuple[Tensor, DefaultTest]:
        """In single precision, for right-hand sides that are brought to the size of 1."""
        exponents = exponents_of(self.double.comm, right, ordinary=0)
        scaled = right if exponents is None else times_power_of_two(right, exponents, -1)
        step, test = run(self.method, self.single, scaled.float(), criteria)
        double = step.double()
        return (double if exponents is None else times_power_of_two(double, exponents)), test

    def _require_progress(
        self, test: DefaultTest, slow: Tensor, b: Tensor, x: Tensor, goes_on: bool
    ) -> None:
        if not slow.any():
            return
        level = self.criteria.level
        for reason, iteration, which in test.failures:
            if (which & slow).any():
                bad = not torch.isfinite(b).all()
                if bad or not torch.isfinite(x).all():
                    raise errors.bad_numbers(self.direction, self.name, iteration, level, bad)
                raise self._failure(reason, iteration)
        if goes_on:
            raise errors.too_coarse(self.direction, self.name, test.iteration, level)

    def _failure(self, reason: int, iteration: int) -> errors.SolveError:
        level = self.criteria.level
        where = "in single precision, where precision='float64' may do better"
        return errors.failed_solve(self.direction, self.name, reason, iteration, level, where)
