"""Convergence tests: which right-hand sides of a batch are active."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from prdp_hpc.linalg.refinement_level import DEFAULT_MAX_IT, Refinement
from prdp_hpc.petsc import PETSc

EXACT = 1e-15
"""Residual, relative to the first, that is rounding; further iterations have no useful derivative.
"""
_REASONS = PETSc.KSP.ConvergedReason


class ConvergenceTest(Protocol):
    """The convergence test that a method calls while it iterates.

    Attributes
    ----------
    active : `(B, 1)`, 1 for active right-hand sides, 0 for those that have stopped.
    is_tested : whether the method must compute residual norms.
    is_last : whether this is certainly the last iteration, so that no next one is prepared.
    """

    active: Tensor
    is_tested: bool

    @property
    def is_last(self) -> bool:
        """Whether this is certainly the last iteration."""

    def begin(self, squared_norm: Tensor) -> None:
        """Start, with the squared norm `(B, 1)` of the first residual."""

    def drop(self, which: Tensor, reason: int) -> None:
        """Stop right-hand sides `(B, 1)` before this step, because the method breaks down."""

    def solved(self, which: Tensor) -> None:
        """Stop right-hand sides `(B, 1)` before this step, because their residual is 0."""

    def done(self, squared_norm: Tensor | None) -> None:
        """End an iteration, with the squared norm `(B, 1)` of the residual, if it was computed."""


class DefaultTest:
    """Stops each right-hand side at its own iteration, as KSPConvergedDefault does.

    `whole`: the squared norms `(B, 1)` that a tolerance refers to; default: those of the first
    residuals.

    Attributes
    ----------
    counts : iterations of each right-hand side, `(B, 1)`.
    failures : (reason, iteration, which right-hand sides) of the failures.
    exact : right-hand sides `(B, 1)` that were solved exactly before the last iteration: before
        the first one, e.g. zeros, or before the last of a fixed number. Krylov methods are
        homogeneous, but not linear, in the residual, so the map of all iterations has no derivative
        there.
    """

    def __init__(
        self,
        batch: int,
        level: Refinement,
        absolute: float,
        divergence: float,
        whole: Tensor | None = None,
    ) -> None:
        self.is_tested = level.rtol is not None
        self.active = torch.ones(batch, 1, dtype=torch.float64)
        self.counts = torch.zeros(batch, 1, dtype=torch.int64)
        self.failures: list[tuple[int, int, Tensor]] = []
        self.exact = torch.zeros(batch, 1, dtype=torch.bool)
        self.iteration = 0
        self.limit = level.max_it or DEFAULT_MAX_IT
        self._target = (EXACT if level.rtol is None else level.rtol) ** 2
        self._absolute = absolute**2 if self.is_tested else 0.0
        self._divergence = divergence**2
        self._first = torch.zeros(batch, 1, dtype=torch.float64)
        self._whole = whole if self.is_tested else None

    @property
    def goes_on(self) -> bool:
        """Whether there is another iteration to do."""
        return self.iteration < self.limit and bool(self.active.any())

    @property
    def is_last(self) -> bool:
        """See `ConvergenceTest`."""
        return not self.is_tested and self.iteration == self.limit - 1

    def begin(self, squared_norm: Tensor) -> None:
        """See `ConvergenceTest`."""
        self._first = squared_norm.detach()
        self.drop(~torch.isfinite(self._first), _REASONS.DIVERGED_NANORINF)
        is_solved = self._first <= self._absolute
        if self._whole is not None:
            is_solved |= self._first <= self._target * self._whole
            self._first = torch.where(self._whole > 0.0, self._whole, self._first)
        self.solved(is_solved)

    def drop(self, which: Tensor, reason: int) -> None:
        """See `ConvergenceTest`."""
        which = which & (self.active > 0.0)
        if which.any():
            self.failures.append((reason, self.iteration, which))
            self._stop(which)

    def solved(self, which: Tensor) -> None:
        """See `ConvergenceTest`."""
        which = which & (self.active > 0.0)
        self.exact |= which
        self._stop(which)

    def done(self, squared_norm: Tensor | None) -> None:
        """See `ConvergenceTest`."""
        self.counts += self.active.to(torch.int64)
        self.iteration += 1
        if squared_norm is None:
            return
        norm = squared_norm.detach()
        self.drop(~torch.isfinite(norm), _REASONS.DIVERGED_NANORINF)
        if self.is_tested:
            self.drop(norm >= self._divergence * self._first, _REASONS.DIVERGED_DTOL)
        reached = norm <= torch.clamp(self._target * self._first, min=self._absolute)
        if self.is_tested or self.iteration == self.limit:
            self._stop(reached)
        else:
            self.solved(reached)

    def _stop(self, which: Tensor) -> None:
        self.active = torch.where(which, 0.0, self.active)


class ReplayedTest:
    """Repeats the decisions of an earlier `DefaultTest`, starting at an iteration."""

    is_tested = False

    def __init__(self, counts: Tensor, iteration: int) -> None:
        self._counts, self._end, self._iteration = counts, last_iteration(counts), iteration
        self.active = (counts > iteration).to(torch.float64)

    @property
    def is_last(self) -> bool:
        """See `ConvergenceTest`."""
        return self._iteration == self._end - 1

    def begin(self, squared_norm: Tensor) -> None:
        """See `ConvergenceTest`."""

    def drop(self, which: Tensor, reason: int) -> None:
        """See `ConvergenceTest`."""

    def solved(self, which: Tensor) -> None:
        """See `ConvergenceTest`."""

    def done(self, squared_norm: Tensor | None) -> None:
        """See `ConvergenceTest`."""
        self._iteration += 1
        self.active = (self._counts > self._iteration).to(torch.float64)


def last_iteration(counts: Tensor) -> int:
    """Iterations until the last right-hand side stopped."""
    return int(counts.max()) if counts.numel() else 0
