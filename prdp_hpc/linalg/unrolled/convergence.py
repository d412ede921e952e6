"""Convergence tests: which right-hand sides of a batch are active."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from prdp_hpc.linalg.refinement_level import DEFAULT_MAX_IT, Refinement
from prdp_hpc.petsc import PETSc

EXACT = {torch.float64: 1e-15, torch.float32: 1e-7}
"""Residual, relative to the first, that is rounding; further iterations have no useful derivative.
"""
INTERVAL = 8
"""Iterations between two checks of the active right-hand sides if the host waits for a device."""
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

    def drop(self, which: Tensor, reason: int, begun: int = 0) -> None:
        """Stop right-hand sides `(B, 1)` before this step, because the method breaks down.
        `begun`: iterations that PETSc's KSP counts by then beyond those that are done.
        """

    def solved(self, which: Tensor) -> None:
        """Stop right-hand sides `(B, 1)` before this step, because their residual is 0."""

    def look_for_rounding(self, squared_norm: Tensor) -> None:
        """Stop right-hand sides before this step of a fixed number if only rounding is left of
        their residuals, whose squared norms are `(B, 1)`.
        """

    def done(self, squared_norm: Tensor | None) -> None:
        """End an iteration, with the squared norm `(B, 1)` of the residual, if it was computed."""


class DefaultTest:
    """Stops each right-hand side at its own iteration, as KSPConvergedDefault does.

    On the CPU it ends with the last active right-hand side. On another device it reads nothing back
    before the end of a fixed number of iterations, and with a tolerance once in `INTERVAL`
    iterations: right-hand sides that have stopped do not change, so results and counts are the
    same.

    Parameters
    ----------
    b : right-hand sides `(B, n_local)`, for their device, precision and number.
    level : when to stop.
    absolute, divergence : see KSPSetTolerances.
    whole : the squared norms `(B, 1)` that a tolerance refers to; default: those of the first
        residuals.

    Attributes
    ----------
    counts : iterations of each right-hand side, `(B, 1)`.
    reference : the squared norms `(B, 1)` that the tolerance refers to.
    exact : right-hand sides `(B, 1)` that were solved exactly before the last iteration: before
        the first one, e.g. zeros, or before the last of a fixed number. Krylov methods are
        homogeneous, but not linear, in the residual, so the map of all iterations has no derivative
        there.
    vanished : right-hand sides `(B, 1)` of which this rank's part is not 0, although the first
        residual of the method is; None if that was not looked for.
    """

    def __init__(
        self,
        b: Tensor,
        level: Refinement,
        absolute: float,
        divergence: float,
        whole: Tensor | None = None,
    ) -> None:
        self.is_tested = level.rtol is not None
        self.active = torch.ones(len(b), 1, dtype=b.dtype, device=b.device)
        self.counts = torch.zeros(len(b), 1, dtype=torch.int64, device=b.device)
        self.exact = torch.zeros(len(b), 1, dtype=torch.bool, device=b.device)
        self.vanished: Tensor | None = None
        self.iteration = 0
        self.limit = level.max_it or DEFAULT_MAX_IT
        self._target = (EXACT[b.dtype] if level.rtol is None else level.rtol) ** 2
        self._absolute = absolute**2 if self.is_tested else 0.0
        self._divergence = divergence**2
        self.reference = torch.zeros_like(self.active)
        self._goal = torch.zeros_like(self.active)
        self._whole = whole if self.is_tested else None
        self._reads = b.is_cpu
        # The reason, the iteration and the right-hand sides of each failure.
        self._dropped: list[tuple[int, int, Tensor]] = []
        self._occurred: Tensor | None = None

    @property
    def failures(self) -> list[tuple[int, int, Tensor]]:
        """(reason, iteration, which right-hand sides) of the failures."""
        if self._occurred is None:
            return []
        found = zip(self._dropped, self._occurred.tolist(), strict=True)
        return [drop for drop, occurred in found if occurred]

    def finish(self) -> None:
        """Combine the data of all failures after the last iteration, so that it is read once."""
        if self._dropped:
            self._occurred = torch.cat([which for _, _, which in self._dropped], dim=1).any(dim=0)

    @property
    def goes_on(self) -> bool:
        """Whether there is another iteration to do."""
        if self.iteration >= self.limit:
            return False
        is_read = self._reads or (self.is_tested and self.iteration % INTERVAL == 0)
        return not is_read or bool(self.active.any())

    @property
    def is_last(self) -> bool:
        """See `ConvergenceTest`."""
        return not self.is_tested and self.iteration == self.limit - 1

    def begin(self, squared_norm: Tensor) -> None:
        """See `ConvergenceTest`."""
        self.reference = squared_norm.detach()
        self.drop(~torch.isfinite(self.reference), _REASONS.DIVERGED_NANORINF)
        is_solved = self.reference <= self._absolute
        if self._whole is not None:
            is_solved |= self.reference <= self._target * self._whole
            self.reference = torch.where(self._whole > 0.0, self._whole, self.reference)
        self._goal = torch.clamp(self._target * self.reference, min=self._absolute)
        self.solved(is_solved)

    def drop(self, which: Tensor, reason: int, begun: int = 0) -> None:
        """See `ConvergenceTest`."""
        which = which & (self.active > 0.0)
        if not self._reads or which.any():
            self._dropped.append((reason, self.iteration + begun, which))
            self._stop(which)

    def solved(self, which: Tensor) -> None:
        """See `ConvergenceTest`."""
        which = which & (self.active > 0.0)
        self.exact |= which
        self._stop(which)

    def look_for_rounding(self, squared_norm: Tensor) -> None:
        """See `ConvergenceTest`."""
        norm = squared_norm.detach()
        if self.iteration == 0:
            self.reference, self._goal = norm, self._target * norm
        else:
            self.solved(norm <= self._goal)

    def done(self, squared_norm: Tensor | None) -> None:
        """See `ConvergenceTest`."""
        self.counts += self.active.to(torch.int64)
        self.iteration += 1
        if squared_norm is None:
            return
        norm = squared_norm.detach()
        self.drop(~torch.isfinite(norm), _REASONS.DIVERGED_NANORINF)
        if self.is_tested:
            self.drop(norm >= self._divergence * self.reference, _REASONS.DIVERGED_DTOL)
        reached = norm <= self._goal
        if self.is_tested or self.iteration == self.limit:
            self._stop(reached)
        else:
            self.solved(reached)

    @property
    def tensors(self) -> list[Tensor]:
        """Everything that depends on the right-hand sides, besides the failures."""
        return [self.active, self.counts, self.exact, self.reference, self._goal]

    def fork(self) -> DefaultTest:
        """The same test for some iterations from here on, counted from 0, that reads nothing
        back.
        """
        twin = copy.copy(self)
        twin.restore([tensor.clone() for tensor in self.tensors])
        twin.iteration, twin._dropped, twin._occurred, twin._reads = 0, [], None, False
        return twin

    def restore(self, tensors: Sequence[Tensor]) -> None:
        """Take over the `tensors` of a fork."""
        self.active, self.counts, self.exact, self.reference, self._goal = tensors

    def advance(self, part: DefaultTest, occurred: Sequence[bool]) -> None:
        """Count the iterations of a fork, and take over the failures that occurred in them."""
        for (reason, iteration, which), is_one in zip(part._dropped, occurred, strict=True):
            if is_one:
                self._dropped.append((reason, self.iteration + iteration, which.clone()))
        self.iteration += part.iteration

    @property
    def occurred(self) -> Tensor:
        """Whether each of the failures that were looked for occurred; after `finish`."""
        return self.active.new_zeros(0).bool() if self._occurred is None else self._occurred

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

    def drop(self, which: Tensor, reason: int, begun: int = 0) -> None:
        """See `ConvergenceTest`."""

    def solved(self, which: Tensor) -> None:
        """See `ConvergenceTest`."""

    def look_for_rounding(self, squared_norm: Tensor) -> None:
        """See `ConvergenceTest`."""

    def done(self, squared_norm: Tensor | None) -> None:
        """See `ConvergenceTest`."""
        self._iteration += 1
        self.active = (self._counts > self._iteration).to(torch.float64)


def last_iteration(counts: Tensor) -> int:
    """Iterations until the last right-hand side stopped."""
    return int(counts.max()) if counts.numel() else 0
