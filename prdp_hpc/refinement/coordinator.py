"""The PRDP coordinator, which decides when to refine and when to stop refining."""

from __future__ import annotations

import math
from typing import Any

from prdp_hpc.errors import InputError
from prdp_hpc.number_checks import check_count, check_number, is_number
from prdp_hpc.refinement.ladders import Ladder, Level

FIRST_CHECKPOINT = 100.0


class RefinementError(InputError):
    """The validation error is not finite: training has diverged, which no refinement can repair."""


class Coordinator:
    """The PRDP schedule: refine when the validation error reaches a plateau.

    With the smoothed error `ema_0 = err_0`, `ema_t = α err_t + (1 − α) ema_{t−1}`,
    `α = 2 / (ema_window + 1)`, and more than `error_window` errors:

    1. If `ema[-1] / ema[-error_window] ≤ step_threshold`, there is no plateau: keep the level.
    2. Otherwise let `c = ema[-1] / checkpoint`, with `checkpoint = 100` at first. If
       `c < stop_threshold` (the last refinement has reduced the error) or `c > 1` (the error
       grows), set `checkpoint = ema[-1]` and choose the next finer level.
    3. Otherwise the last refinement has not helped: keep the level.

    The finest level is kept once it is reached. With `ema_window=1` the error is not smoothed.

    Parameters
    ----------
    ladder : Ladder
        Levels of forward solves.
    step_threshold : float, default 0.98
        Ratio τ_step of smoothed errors above which the error is on a plateau.
    stop_threshold : float, default 0.9
        Ratio τ_stop of smoothed errors above which a refinement has not helped.
    ema_window : int, default 6
        Window of the exponential moving average, in epochs.
    error_window : int, default 3
        Number of epochs between the smoothed errors that are compared.
    adjoint_ladder : Ladder, optional
        Levels of adjoint solves, selected by the same rung; a shorter ladder stays at its finest
        level. Default: `ladder`.

    Attributes
    ----------
    rung : int
        Index of the current level on the ladder.
    checkpoint : float
        Smoothed error at the last refinement.
    history : list of float
        All validation errors.

    Raises
    ------
    InputError
        If a threshold is not positive or a window is not an integer of at least 1.

    References
    ----------
    Progressively Refined Differentiable Physics (PRDP), ICLR 2025, section on the algorithm.

    Examples
    --------
    >>> from prdp_hpc import Coordinator, IterationLadder
    >>> coordinator = Coordinator(IterationLadder(start=1, step=2, stop=9), ema_window=1)
    >>> [coordinator.observe(error) for error in (1.0, 0.5, 0.49, 0.49, 0.49)]
    [False, False, False, False, True]
    >>> coordinator.level
    3
    """

    def __init__(
        self,
        ladder: Ladder,
        step_threshold: float = 0.98,
        stop_threshold: float = 0.9,
        ema_window: int = 6,
        error_window: int = 3,
        adjoint_ladder: Ladder | None = None,
    ) -> None:
        for name, threshold in (
            ("step_threshold", step_threshold),
            ("stop_threshold", stop_threshold),
        ):
            check_number(name, threshold, above=0)
        for name, window in (("ema_window", ema_window), ("error_window", error_window)):
            check_count(name, window)
        self.ladder, self.adjoint_ladder = ladder, adjoint_ladder
        self.step_threshold, self.stop_threshold = step_threshold, stop_threshold
        self.ema_window, self.error_window = ema_window, error_window
        self.rung = 0
        self.checkpoint = FIRST_CHECKPOINT
        self.history: list[float] = []
        self._ema: list[float] = []

    @property
    def level(self) -> Level:
        """The level of forward solves: iterations (int) or a tolerance (float)."""
        return self.ladder.level(self.rung)

    @property
    def adjoint_level(self) -> Level:
        """The level of adjoint solves."""
        return (self.adjoint_ladder or self.ladder).level(self.rung)

    def observe(self, error: float) -> bool:
        """Record the next validation error and choose the level of the next epoch.

        The first error is that before training. An error that is not finite is not recorded.

        Parameters
        ----------
        error : float
            Validation error.

        Returns
        -------
        bool
            Whether the level has changed.

        Raises
        ------
        RefinementError
            If the error is NaN or infinite.
        InputError
            If the error is negative, or not a number.
        """
        error = checked_error(error, len(self.history), self.level)
        if error < 0:
            raise InputError(
                f"validation error number {len(self.history)} is {error:g}: this schedule compares "
                "ratios of errors, which must be at least 0, e.g. norms or mean squares"
            )
        alpha = 2.0 / (self.ema_window + 1)
        self._ema.append(alpha * error + (1.0 - alpha) * self._ema[-1] if self._ema else error)
        self.history.append(error)
        if not self._should_refine():
            return False
        self.checkpoint = self._ema[-1]
        if self.rung == self.ladder.top:
            return False
        self.rung += 1
        return True

    def _should_refine(self) -> bool:
        if len(self.history) <= self.error_window:
            return False
        now = self._ema[-1]
        if _ratio(now, self._ema[-self.error_window]) <= self.step_threshold:
            return False
        against_checkpoint = _ratio(now, self.checkpoint)
        return against_checkpoint < self.stop_threshold or against_checkpoint > 1.0

    def state_dict(self) -> dict[str, Any]:
        """Return rung, checkpoint and history as plain numbers."""
        return {
            "rung": self.rung,
            "checkpoint": self.checkpoint,
            "history": list(self.history),
            "ema": list(self._ema),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.rung, self.checkpoint = int(state["rung"]), float(state["checkpoint"])
        self.history, self._ema = list(state["history"]), list(state["ema"])


def checked_error(
    error: float, observed: int, level: Level, what: str = "validation error"
) -> float:
    """Return `error` as a float; raise `RefinementError` if it is not finite, and `InputError` if
    it is not a number, also in a tensor or array with one entry.
    """
    number = _as_number(error)
    if number is None:
        raise InputError(f"{what} number {observed} must be a real number, not {error!r}")
    if not math.isfinite(number):
        raise RefinementError(
            f"{what} number {observed} is {number}, at level {level}: training has "
            "diverged; "
            "lower the learning rate, start from a finer level, or check the data"
        )
    return number


def _as_number(value: Any) -> float | None:
    if callable(getattr(value, "item", None)):
        try:
            value = value.item()
        except (RuntimeError, ValueError):
            return None
    return float(value) if is_number(value) else None


def _ratio(now: float, before: float) -> float:
    """Return `now / before`, or 1 if both are zero, which is a plateau."""
    return now / before if before else (1.0 if now == 0.0 else math.inf)
