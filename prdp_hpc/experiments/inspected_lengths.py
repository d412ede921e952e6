"""Other lengths of the domain, for data that do not contain their own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from prdp_hpc.experiments.physics_residual import Change
from prdp_hpc.grid.structured import Grid

LIKELY_FACTORS = (2.0, math.pi, 2 * math.pi, 10.0)
"""Factors by which lengths are often wrong, and by which they are divided."""
DIGITS = 7
"""Significant digits of a length in a message."""


def is_known(data: Any) -> bool:
    """Whether the data contain the length of their domain."""
    return getattr(data, "spacing", None) is not None or "length" in getattr(data, "attributes", {})


def likely_lengths(grid: Grid) -> Iterator[Change]:
    """All lengths times a number, exchanged lengths, and those with equal spacings."""
    lengths = grid.length
    found = [_times(lengths, one) for factor in LIKELY_FACTORS for one in (factor, 1 / factor)]
    found += itertools.permutations(lengths)
    sides = [length / h for length, h in zip(lengths, grid.spacing, strict=True)]
    found += [tuple(_rounded(h * side) for side in sides) for h in grid.spacing]
    for one in dict.fromkeys(found):
        if not _same(one, lengths):
            yield Change(lengths=one)


def lengths_like(change: Change, grid: Grid) -> Iterator[Change]:
    """Lengths with the same effect as a factor of the time step or of a coefficient: the square
    root of its inverse for diffusion, the inverse for advection.
    """
    if change.key and not change.axes and not change.channels:
        for factor in (change.factor**-0.5, 1 / change.factor):
            yield Change(lengths=_times(grid.length, factor))


def scales(change: Change, grid: Grid) -> bool:
    """Whether a change multiplies all lengths by one number."""
    ratios = [new / old for new, old in zip(change.lengths, grid.length, strict=False)]
    return bool(ratios) and math.isclose(min(ratios), max(ratios), rel_tol=1e-6)


def _times(lengths: Sequence[float], factor: float) -> tuple[float, ...]:
    return tuple(_rounded(factor * length) for length in lengths)


def _rounded(length: float) -> float:
    return float(f"{length:.{DIGITS}g}")


def _same(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(one, other, strict=True))
