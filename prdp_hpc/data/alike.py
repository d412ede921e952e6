"""Check that several data sets can be joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prdp_hpc.data.layout import FORMAT, DataError
from prdp_hpc.data.windowed import dataset_name

TEXTS = ("pde", "boundary", "length", "channels", "axes")
"""Attributes that must agree and are no coefficients."""
CLOSE = 1e-6
"""Relative difference up to which coefficients are equal, as in a comparison with those of a PDE.
"""


def check_alike(data: Any, first: Any) -> None:
    """Raise `DataError` if two data sets cannot be joined: their grids differ, or an attribute that
    determines the physics, as far as both contain it.

    These are the time step and, in files of our format, all numbers with a fraction; other programs
    may store any numbers. Those of all data sets are compared with the PDE, see `check_numbers`.
    """
    for name in ("shape", "spacing"):
        _compare(data, first, name, getattr(data, name, None), getattr(first, name, None))
    ours, theirs = _attributes(data), _attributes(first)
    numbers = _coefficients(ours) & _coefficients(theirs)
    for name in (*TEXTS, *sorted(numbers)):
        _compare(data, first, name, ours.get(name), theirs.get(name))


def common_attributes(parts: Sequence[Any]) -> dict[str, Any]:
    """The attributes that are equal in all data sets that have them."""
    found: dict[str, Any] = {}
    differ: set[str] = set()
    for part in parts:
        for name, value in _attributes(part).items():
            if not _equal(value, found.setdefault(name, value)):
                differ.add(name)
    return {name: value for name, value in found.items() if name not in differ}


def _attributes(data: Any) -> dict[str, Any]:
    return dict(getattr(data, "attributes", {}))


def _coefficients(attributes: dict[str, Any]) -> set[str]:
    if attributes.get("format") != FORMAT:
        return {"dt"}
    return {name for name, value in attributes.items() if isinstance(value, float | np.floating)}


def _compare(data: Any, first: Any, name: str, ours: Any, theirs: Any) -> None:
    if ours is None or theirs is None or _equal(ours, theirs):
        return
    raise DataError(
        f"{dataset_name(data)}: has {name} = {_shown(ours)}, but {dataset_name(first)} has "
        f"{_shown(theirs)}: data sets that are joined must agree in it"
    )


def _equal(one: Any, other: Any) -> bool:
    a, b = np.asarray(one), np.asarray(other)
    if a.dtype.kind in "fiu" and b.dtype.kind in "fiu":
        return a.shape == b.shape and bool(np.all(abs(a - b) <= CLOSE * abs(b)))
    return bool(np.array_equal(a, b))


def _shown(value: Any) -> str:
    return f"{value:.8g}" if isinstance(value, float | np.floating) else str(value)
