"""Neighbours in arrays that have one halo layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

_ENDS = {-1: slice(None, -2), 0: slice(1, -1), 1: slice(2, None)}


def moved(dim: int, shifts: Mapping[int, int]) -> tuple[slice, ...]:
    """Slices that select, from an array with one halo layer on each of its last `dim` axes, the
    points shifted by −1, 0 or 1 along some axes.
    """
    return tuple(_ENDS[shifts.get(axis, 0)] for axis in range(dim))


def neighbour(padded: Tensor, dim: int, shifts: Mapping[int, int]) -> Tensor:
    """Fields `(..., *(n + 2))` shifted by −1, 0 or 1 along some axes of the grid: `(..., *n)`."""
    index: Any = (Ellipsis, *moved(dim, shifts))
    return padded[index]
