"""The factor of a number of the PDE with which each state is reproduced best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SURE = 1.6
"""Ratio of a number and the best one from which the number is named."""
SPREAD = 3.0
"""Ratio of the best factors of two states from which they contradict each other."""
FLOOR = 1e-6
"""Smallest residual by which that of a channel is divided."""

Residuals = Sequence[Sequence[float]]
"""The residual of each channel for each state; NaN where nothing changes."""


@dataclass(frozen=True)
class BestFactor:
    """The factors of a number with which the states are reproduced best.

    The error of another scheme changes the size of a residual, but hardly for which coefficient it
    is smallest, as long as the error is not parallel to the effect of the coefficient.

    Attributes
    ----------
    key : the number of the section `physics`.
    factors : of each state; 0 or infinity if the residual falls up to the end of what was tried.
    left : the mean square of the residuals with the best factor that was tried, relative to that
        without a change.
    """

    key: str
    factors: tuple[float, ...]
    left: float = 1.0

    @property
    def agrees(self) -> bool:
        """Whether all states have about the same factor."""
        low, high = min(self.factors), max(self.factors)
        return low > 0 and math.isfinite(high) and high <= SPREAD * low

    @property
    def is_wrong(self) -> bool:
        """Whether all states have about the same factor, far from 1."""
        return self.agrees and (min(self.factors) >= SURE or max(self.factors) <= 1 / SURE)


def best_factor(
    key: str, unchanged: Residuals, changed: Mapping[float, Residuals]
) -> BestFactor | None:
    """The factors of a number from the residuals without a change and with each factor.

    The squared residuals of the channels are added after a division by those without a change, so
    that a channel that the PDE does not reproduce, e.g. the pressure of another scheme, counts as
    much as the others. Returns None if there are too few factors.
    """
    tried = sorted({**changed, 1.0: unchanged}.items())
    if len(tried) < 3:
        return None
    by_state = []
    for state, before in enumerate(unchanged):
        sums = [(factor, _sum(each[state], before)) for factor, each in tried]
        if not math.isnan(sums[0][1]):
            by_state.append(sums)
    if not by_state:
        return None
    totals = [sum(one[1] for one in each) for each in zip(*by_state, strict=True)]
    at_one = [factor for factor, _ in tried].index(1.0)
    # Without any error there is nothing to reduce.
    left = min(totals) / totals[at_one] if totals[at_one] else 1.0
    return BestFactor(key, tuple(map(_minimum, by_state)), left)


def _sum(residuals: Sequence[float], before: Sequence[float]) -> float:
    parts = [
        (one / max(first, FLOOR)) ** 2
        for one, first in zip(residuals, before, strict=True)
        if not math.isnan(first)
    ]
    return sum(parts) if parts else math.nan


def _minimum(sums: Sequence[tuple[float, float]]) -> float:
    """Where the parabola through the smallest sum and its neighbours is smallest."""
    place = min(range(len(sums)), key=lambda i: sums[i][1])
    if place in (0, len(sums) - 1):
        return 0.0 if place == 0 else math.inf
    (a, left), (b, middle), (c, right) = sums[place - 1 : place + 2]
    to_left, to_right = (b - a) * (middle - right), (b - c) * (middle - left)
    return b - ((b - a) * to_left - (b - c) * to_right) / (2 * (to_left - to_right))
