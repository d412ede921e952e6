"""A coordinator that compares the solver's error of a gradient with the gradient and its noise.

Unlike the PRDP coordinator it does not wait for a plateau of the validation error, which a decaying
learning rate also causes, and its parameters do not depend on how fast an experiment learns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from prdp_hpc.number_checks import check_number
from prdp_hpc.refinement.coordinator import checked_error
from prdp_hpc.refinement.ladders import Ladder, Level
from prdp_hpc.refinement.probing import Measure, MeasuredGradient
from prdp_hpc.refinement.rungs import Rungs

HYSTERESIS = 0.5
"""A coarser level must pass the norm test with the limit multiplied by this factor."""
PATIENCE = 2
"""Number of consecutive probes in which a coarser level must pass before it is chosen."""
EAGER = 2.0
"""Factor of `probe_share` for the next probe after one that refined."""
LEAST_DECREASE = 0.01
"""Smallest factor by which the squared limit is expected to decrease until the next probe."""

AtLevel = Callable[[Level], MeasuredGradient]
Measured = tuple[Level, MeasuredGradient]


class GradientCoordinator:
    """A schedule that chooses the levels by the norm test on gradients.

    Let `g_K` be the gradient of one batch with solves at level K, and `g_L` that at a finer level
    L. The solves are refined while

        ‖g_K − g_L‖² > max(θ² ‖g_K‖², θ_noise² Var(g)/|B|),

    i.e. while the solver's error of the gradient is above the fraction θ of the gradient and above
    θ_noise times the sampling noise of a mini-batch. L is the nearest level with at least twice the
    iterations, because for a slow solver the next level reveals only the fraction `1 − ρ` of the
    error, where ρ is the factor by which one level reduces it. For tolerances L is the next level.

    - **Refinement**: if the test fails, the next finer level is chosen and measured. If the test
      fails there too, the level at which it would hold is extrapolated from the two differences, to
      at most twice the rung. If the limit on the right-hand side has decreased since the last
      probe, it is assumed to decrease by the same factor until the next one (at most 100 for the
      square).
    - **Coarsening**: if the test holds with half the limit (a quarter of the square), the next
      coarser level is measured too. It is chosen once it has passed with half the limit in two
      consecutive probes. This hysteresis keeps the noise of single batches from changing the level
      back and forth.
    - **Adjoint solves** have their own level and the same test at a fixed forward level. If their
      level has no effect, e.g. with unrolled differentiation, they are not tested again.

    With `theta_noise = theta` the right-hand side is `θ² max(‖g‖², Var(g)/|B|)`.

    Parameters
    ----------
    ladder : Ladder
        Levels of forward solves; training starts at the coarsest one.
    adjoint_ladder : Ladder, optional
        Levels of adjoint solves. Default: `ladder`.
    theta : float, default 0.35
        Permitted solver error relative to the gradient, θ, between 0 and 1.
    theta_noise : float, default 1.0
        Permitted solver error relative to the sampling noise, θ_noise, above 0.
    probe_share : float, default 0.1
        Inner iterations of a probe relative to those of training until the next probe, between 0
        and 1; doubled after a probe that refined. It is used by the `Trainer`; in a user-defined
        training loop the caller decides when to call `probe`.

    Raises
    ------
    InputError
        If a parameter is out of range.

    References
    ----------
    Byrd, Chin, Nocedal, Wu: Sample size selection in optimization methods for machine learning,
    2012 (the norm test). Bollapragada, Byrd, Nocedal: Adaptive sampling strategies for stochastic
    optimization, 2018. There the gradient bounds the sampling error; here it bounds the solver's
    error, as in Pedregosa 2016 (HOAG) and Salehi et al. 2024 (MAID), which adapt the accuracy of
    inner problems.

    Examples
    --------
    A gradient whose solver error halves with each iteration:

    >>> import numpy
    >>> from prdp_hpc import GradientCoordinator, IterationLadder, MeasuredGradient
    >>> def measure(level, adjoint_level):
    ...     return MeasuredGradient(numpy.array([1.0 + 0.5**level]))
    >>> coordinator = GradientCoordinator(IterationLadder(1, 1, 60), theta=0.1)
    >>> coordinator.probe(measure)
    True
    >>> coordinator.level
    2
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
            check_number(name, value, above=0, below=1)
        check_number("theta_noise", theta_noise, above=0)
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
        """Check the next validation error, which does not affect the levels.

        Parameters
        ----------
        error : float
            Validation error.

        Returns
        -------
        bool
            False: the level has not changed.

        Raises
        ------
        RefinementError
            If the error is NaN or infinite.
        InputError
            If the error is not a number.
        """
        checked_error(error, self._observed, self.level)
        self._observed += 1
        return False

    def probe_due(self, training_iterations: int, probe_iterations: int) -> bool:
        """Whether to probe before the next epoch.

        The next probe is due when the iterations of the last one are at most the fraction
        `probe_share` of those of training since it was due. The first one is always due.

        Parameters
        ----------
        training_iterations : int
            Inner iterations of training so far, forward and adjoint.
        probe_iterations : int
            Inner iterations of all probes so far, forward and adjoint.

        Returns
        -------
        bool
            Whether a probe is due.
        """
        if self._last_due is not None:
            trained, probed = self._last_due
            share = self.probe_share * (EAGER if self._refined else 1.0)
            if probe_iterations - probed > share * (training_iterations - trained):
                return False
        self._last_due = training_iterations, probe_iterations
        return True

    def probe(self, measure: Measure) -> bool:
        """Test the levels of forward and adjoint solves and choose the next ones.

        Parameters
        ----------
        measure : callable
            `measure(level, adjoint_level)` returns the `MeasuredGradient` of one batch, which is
            the same in each call.

        Returns
        -------
        bool
            Whether a level has changed.

        Raises
        ------
        RefinementError
            If a gradient is NaN or infinite.
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
        """Return rungs, counts and the last limit as plain numbers."""
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
        """Test forward or adjoint solves, and refine or coarsen them. Returns the measured level
        nearest to the chosen one, and the gradient there.
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
        """Refine by one rung, and further to where the test would hold if the difference from
        `finer` continued to decrease at the same rate.
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
        """Coarsen by one rung if that level has passed the test in enough consecutive probes."""
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
