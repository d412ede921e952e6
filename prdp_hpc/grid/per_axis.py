"""Arguments that are given once for all axes, or once per axis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def per_axis(value: Any, dim: int) -> tuple[Any, ...]:
    """One value per axis, from one for all axes or one per axis."""
    is_one = isinstance(value, (str, Mapping)) or not isinstance(value, Iterable)
    is_one = is_one or getattr(value, "ndim", 1) == 0
    return (value,) * dim if is_one else tuple(value)
