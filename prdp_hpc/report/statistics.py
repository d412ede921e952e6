"""Numbers over the seeds of a comparison."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import fmean, stdev
from typing import Any

EQUAL_WITHIN = 0.1
"""Two errors count as equal where one is at most this fraction above full refinement's."""

Statistics = dict[str, Any]
"""`values`: one a seed, null where there is no finite one; `mean` and `spread` (sample standard
deviation, null for one).
"""


def equal_errors(ours: float | None, theirs: float | None) -> bool:
    """Whether an error is at most 10 % above another; never where one is missing."""
    return ours is not None and theirs is not None and ours <= theirs * (1 + EQUAL_WITHIN)


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """`ours / theirs`, or None where that has no value."""
    return None if ours is None or not theirs else ours / theirs


def statistics(numbers: Iterable[Any]) -> Statistics:
    """Mean, spread and values; None in the place of what is not finite."""
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
    """The share of theirs that ours did without, of the means and by seed."""
    by_seed = statistics(
        [share(a, b) for a, b in zip(ours["values"], theirs["values"], strict=True)]
    )
    return {**by_seed, "mean": share(ours["mean"], theirs["mean"])}


def share(ours: float | None, theirs: float | None) -> float | None:
    """Negative where ours cost more; None where theirs cost nothing."""
    return None if ours is None or theirs is None or theirs <= 0 else 1 - ours / theirs
