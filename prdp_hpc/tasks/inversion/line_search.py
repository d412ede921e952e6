"""A line search for the strong Wolfe conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

DECREASE, CURVATURE = 1e-4, 0.9
"""c₁ and c₂ of the conditions `f(t) ≤ f(0) + c₁ t f'(0)` and `|f'(t)| ≤ c₂ |f'(0)|`."""


@dataclass(frozen=True)
class Trial:
    """A step length, the function there, and its slope along the direction."""

    step: float
    value: float
    slope: float


def strong_wolfe(
    evaluate: Callable[[float], Trial], start: Trial, first: float, evaluations: int
) -> Trial | None:
    """Find a step that satisfies the strong Wolfe conditions.

    If none is found within `evaluations`, the result is the best step with sufficient decrease, or
    None if there is no such step. All arguments and the result are equal on all ranks.

    Parameters
    ----------
    evaluate : returns the trial at a step.
    start : the trial at step 0; its slope must be negative.
    first : the first step to try.
    evaluations : maximum number of evaluations.

    References: Nocedal and Wright, Numerical Optimization, 2006, algorithms 3.5 and 3.6.
    """
    search = _Search(evaluate, start, evaluations)
    return search.run(first)


class _Search:
    def __init__(self, evaluate: Callable[[float], Trial], start: Trial, evaluations: int) -> None:
        self._evaluate, self._start, self._left = evaluate, start, evaluations
        self._best: Trial | None = None

    def run(self, step: float) -> Trial | None:
        before = self._start
        while self._left > 0:
            trial = self._at(step)
            if not self._decreases(trial) or (
                before is not self._start and trial.value >= before.value
            ):
                return self._zoom(before, trial)
            if self._is_flat(trial):
                return trial
            if trial.slope >= 0:
                return self._zoom(trial, before)
            before, step = trial, 2.0 * trial.step
        return self._best

    def _zoom(self, low: Trial, high: Trial) -> Trial | None:
        """Search between a trial with sufficient decrease and one beyond a minimum."""
        while self._left > 0:
            trial = self._at(_between(low, high))
            if not self._decreases(trial) or trial.value >= low.value:
                high = trial
                continue
            if self._is_flat(trial):
                return trial
            if trial.slope * (high.step - low.step) >= 0:
                high = low
            low = trial
        return self._best

    def _at(self, step: float) -> Trial:
        self._left -= 1
        trial = self._evaluate(step)
        if self._decreases(trial) and (self._best is None or trial.value < self._best.value):
            self._best = trial
        return trial

    def _decreases(self, trial: Trial) -> bool:
        start = self._start
        return math.isfinite(trial.value) and (
            trial.value <= start.value + DECREASE * trial.step * start.slope
        )

    def _is_flat(self, trial: Trial) -> bool:
        return abs(trial.slope) <= -CURVATURE * self._start.slope


def _between(low: Trial, high: Trial) -> float:
    """The minimum of the cubic through both trials, at least a tenth of the interval away from its
    ends; the midpoint if the cubic has no minimum.
    """
    width = high.step - low.step
    middle = low.step + 0.5 * width
    if not (math.isfinite(high.value) and math.isfinite(high.slope)):
        return low.step + 0.1 * width
    a = low.slope + high.slope - 3.0 * (low.value - high.value) / (low.step - high.step)
    square = a * a - low.slope * high.slope
    if square < 0:
        return middle
    root = math.copysign(math.sqrt(square), width)
    bottom = high.slope - low.slope + 2.0 * root
    if bottom == 0.0:
        return middle
    step = high.step - width * (high.slope + root - a) / bottom
    share = (step - low.step) / width
    return low.step + min(max(share, 0.1), 0.9) * width if math.isfinite(share) else middle
