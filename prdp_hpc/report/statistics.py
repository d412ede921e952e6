"""Statistics over the seeds of a comparison."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import fmean, stdev
from typing import Any

EQUAL_WITHIN = 0.1
"""An error counts as equal to that of full refinement if it is at most this fraction above it."""

Statistics = dict[str, Any]
"""`values`: one per seed, null if it is not finite; `mean`; and `spread`, the sample standard
deviation, null for a single seed.
"""


def equal_errors(ours: float | None, theirs: float | None) -> bool:
    """Whether an error is at most 10 % above another; False if one is missing."""
    return ours is not None and theirs is not None and ours <= theirs * (1 + EQUAL_WITHIN)


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """`ours / theirs`, or None if it is not defined."""
    return None if ours is None or not theirs else ours / theirs


def statistics(numbers: Iterable[Any]) -> Statistics:
    """Mean, spread and values; None instead of numbers that are not finite."""
    values = [
        float(number) if number is not None and math.isfinite(number) else None
        for number in numbers
    ]
    finite = [value for value in values if value is not None]
    whole = len(finite) == len(values)
    return {
        "mean": fmean(finite) if whole else None,
        "spread": stdev(finite) if whole and len(finite) > 1 else None,
        "values": values,
    }


def saved(ours: Statistics, theirs: Statistics) -> Statistics:
    """The savings `1 − ours / theirs`, of the means and by seed."""
    by_seed = statistics(
        [share(a, b) for a, b in zip(ours["values"], theirs["values"], strict=True)]
    )
    return {**by_seed, "mean": share(ours["mean"], theirs["mean"])}


def share(ours: float | None, theirs: float | None) -> float | None:
    """`1 − ours / theirs`: negative if ours is larger; None if theirs is zero."""
    return None if ours is None or theirs is None or theirs <= 0 else 1 - ours / theirs
