"""A coordinator that compares the solver's error in a gradient with the gradient and its noise.

What is unusual in it: it needs no plateau of the validation error, which a falling learning rate
causes as well, and no thresholds that depend on how fast an experiment learns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from prdp_hpc.errors import InputError
from prdp_hpc.refinement.coordinator import checked_error
from prdp_hpc.refinement.ladders import Ladder, Level
from prdp_hpc.refinement.probing import Measure, MeasuredGradient
from prdp_hpc.refinement.rungs import Rungs

HYSTERESIS = 0.5
"""A coarser level must pass the test with this part of the limit."""
PATIENCE = 2
"""Probes in a row in which the coarser level must pass before it is taken."""
EAGER = 2.0
"""Times `probe_share` for the next probe after one that refined."""
LEAST_DECREASE = 0.01
"""The least factor by which the (squared) limit is expected to fall until the next probe."""

AtLevel = Callable[[Level], MeasuredGradient]
Measured = tuple[Level, MeasuredGradient]


class GradientCoordinator:
    """Chooses the levels by the norm test, from gradients of one batch at two levels.

    With `g_K` the gradient with solves at level K and `g_L` that at the level L that K is compared
    with, the levels are refined while

        ‖g_K − g_L‖² > max(θ² ‖g_K‖², θ_noise² Var(g)/|B|):

    where the error that the solver makes in the gradient is above the share θ of the gradient, and
    above θ_noise times the noise that a mini-batch has anyway. L is the nearest rung with at least
    twice the iterations, since of a slow solver the next rung shows only the part `1 − ρ` of the
    error, ρ the factor by which a rung reduces it; of tolerances L is the next rung.

    - **Refining**: a probe in which the test fails goes one rung up and measures there; where it
      fails still, the rung where it would hold is extrapolated from the two differences, to at most
      twice the rung. If the limit on the right has fallen since the last probe, it is taken to fall
      by the same factor until the next one (at most 100 in the square).
    - **Loosening**: where the test holds with half the limit (a quarter of the square), the rung
      below is measured too. Once it passed with half the limit in two probes in a row, the level
      goes one rung down. This hysteresis, and the two probes, keep the noise of single batches from
      moving the level up and down.
    - **Adjoint solves** have a rung of their own and the same test, with the forward level fixed.
      Where their level makes no difference at all, as with unrolled differentiation, they are not
      tested again.

    With `theta_noise = theta` the right-hand side is `θ² max(‖g‖², Var(g)/|B|)`.

    Parameters
    ----------
    ladder : levels of forward solves; training begins at the coarsest.
    adjoint_ladder : levels of adjoint solves; default: `ladder`.
    theta : θ, between 0 and 1; default 0.35.
    theta_noise : θ_noise, above 0; default 1: an error as large as the noise.
    probe_share : the inner iterations of a probe, as a share of those that training takes until the
        next one is due, twice this share after a probe that refined; between 0 and 1, default
        0.1. In a loop of your own you decide when to call `probe`.

    Raises
    ------
    ValueError
        For parameters out of range.

    Source: Byrd, Chin, Nocedal, Wu 2012 (Sample size selection in optimization methods for machine
    learning): the norm test; Bollapragada, Byrd, Nocedal 2018 (Adaptive sampling strategies for
    stochastic optimization). There it is the sampling error that is bounded by the gradient; here
    the solver's error is, as in Pedregosa 2016 (HOAG) and Salehi et al. 2024 (MAID), which adapt
    the accuracy of inner problems.

    Example
    -------
        coordinator = GradientCoordinator(IterationLadder(1, 1, 60))
        coordinator.probe(measure)  # measure(level, adjoint_level) -> MeasuredGradient
        solver.refine(coordinator.level, coordinator.adjoint_level)
    """

    def __init__(
        self,
        ladder: Ladder,
        adjoint_ladder: Ladder | None = None,
        theta: float = 0.35,
        theta_noise: float = 1.0,
        probe_share: float = 0.1,
    ) -> None:
        for name, value in (("theta", theta), ("probe_share", probe_share)):
            if not 0 < value < 1:
                raise InputError(f"{name} must lie between 0 and 1, not {value!r}")
        if not (math.isfinite(theta_noise) and theta_noise > 0):
            raise InputError(f"theta_noise must be a positive number, not {theta_noise!r}")
        self.theta, self.theta_noise, self.probe_share = theta, theta_noise, probe_share
        self._forward = Rungs(ladder)
        self._adjoint = Rungs(ladder if adjoint_ladder is None else adjoint_ladder)
        self._observed = 0
        self._last_due: tuple[int, int] | None = None
        self._last_limit = 0.0
        self._decrease = 1.0
        self._refined = False

    @property
    def level(self) -> Level:
        """The level of forward solves."""
        return self._forward.level

    @property
    def adjoint_level(self) -> Level:
        """The level of adjoint solves."""
        return self._adjoint.level

    def observe(self, error: float) -> bool:
        """Take the next validation error, which changes nothing: False.

        Raises `RefinementError` for an error that is NaN or infinite.
        """
        checked_error(error, self._observed, self.level)
        self._observed += 1
        return False

    def probe_due(self, training_iterations: int, probe_iterations: int) -> bool:
        """Whether training has gone on for long enough since the last probe that was due, for what
        that one took; True at first.
        """
        if self._last_due is not None:
            trained, probed = self._last_due
            share = self.probe_share * (EAGER if self._refined else 1.0)
            if probe_iterations - probed > share * (training_iterations - trained):
                return False
        self._last_due = training_iterations, probe_iterations
        return True

    def probe(self, measure: Measure) -> bool:
        """Test both directions and choose the levels; True when one has changed.

        `measure(level, adjoint_level)` gives the gradient of one batch, the same at each call.
        Raises `RefinementError` for a gradient that is NaN or infinite.
        """
        rungs = self._forward.rung, self._adjoint.rung
        here = measure(self.level, self.adjoint_level)
        limit = self._limit(here)
        checked_error(limit, self._observed, self.level, "squared norm of the gradient")
        falls = 0.0 < limit < self._last_limit
        self._decrease = max(limit / self._last_limit, LEAST_DECREASE) if falls else 1.0
        self._last_limit = limit
        forward, here = self._settle(
            self._forward, here, lambda level: measure(level, self.adjoint_level)
        )
        if self._adjoint.matters:
            self._settle(self._adjoint, here, lambda level: measure(forward, level))
        self._refined = self._forward.rung > rungs[0] or self._adjoint.rung > rungs[1]
        return rungs != (self._forward.rung, self._adjoint.rung)

    def state_dict(self) -> dict[str, Any]:
        """Rungs, counts and the last limit, as plain numbers."""
        return {
            "observed": self._observed,
            "last_due": self._last_due,
            "last_limit": self._last_limit,
            "refined": self._refined,
            "forward": self._forward.state_dict(),
            "adjoint": self._adjoint.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._observed, self._refined = int(state["observed"]), bool(state["refined"])
        self._last_limit = float(state["last_limit"])
        last = state["last_due"]
        self._last_due = None if last is None else (int(last[0]), int(last[1]))
        self._forward.load_state_dict(state["forward"])
        self._adjoint.load_state_dict(state["adjoint"])

    def _limit(self, here: MeasuredGradient) -> float:
        return max(self.theta**2 * here.squared_norm(), self.theta_noise**2 * here.variance)

    def _settle(self, rungs: Rungs, here: MeasuredGradient, at: AtLevel) -> Measured:
        """Test in one direction, and refine or loosen; the last level that was measured on the way
        to the one chosen, and the gradient there.
        """
        reference = rungs.reference
        if reference is None:
            return self._loosen(rungs, here, here, at)
        finer, limit = at(reference), self._limit(here)
        squares = here.squared_distance(finer)
        if squares > limit:
            return self._refine(rungs, squares, finer, at)
        if rungs is self._adjoint and squares == 0.0 < here.squared_norm():
            rungs.matters = False
            return rungs.level, here
        if squares <= HYSTERESIS**2 * limit:
            return self._loosen(rungs, here, finer, at)
        rungs.slack = 0
        return rungs.level, here

    def _refine(
        self, rungs: Rungs, squares: float, finer: MeasuredGradient, at: AtLevel
    ) -> Measured:
        """One rung up, and on to where the test would hold if the difference from `finer` went on
        falling as over this rung.
        """
        reference, below = rungs.reference, rungs.rung
        rungs.climb()
        level = rungs.level
        here = finer if level == reference else at(level)
        now, limit = here.squared_distance(finer), self._limit(here) * self._decrease
        if now <= limit or limit <= 0.0:
            return level, here
        further = 1
        if now < squares:
            further = math.ceil(math.log(limit / now) / math.log(now / squares) - 1e-9)
        rungs.jump(further * (rungs.rung - below))
        return level, here

    def _loosen(
        self, rungs: Rungs, here: MeasuredGradient, finer: MeasuredGradient, at: AtLevel
    ) -> Measured:
        """One rung down, where it has passed the test in some probes in a row."""
        below = rungs.neighbour(-1)
        if below is None:
            return rungs.level, here
        coarser = at(rungs.ladder.level(below))
        passes = coarser.squared_distance(finer) <= HYSTERESIS**2 * self._limit(here)
        rungs.slack = rungs.slack + 1 if passes else 0
        if rungs.slack < PATIENCE:
            return rungs.level, here
        rungs.rung, rungs.slack = below, 0
        return rungs.level, coarser
