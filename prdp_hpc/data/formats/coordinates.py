"""Spacings of coordinates, which must be constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prdp_hpc.data.layout import DataError

TOLERANCE = 1e-3
"""Largest deviation of a spacing from the mean one that is a rounding error."""


def spacing(coordinates: ArrayLike, name: str) -> float:
    """The spacing of coordinates, rounded to as many digits as they have.

    Raises
    ------
    DataError
        If they are not equally spaced, or if there are fewer than two.
    """
    stored = np.asarray(coordinates)
    values = stored.astype(np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise DataError(f"{name}: must be at least 2 finite numbers, not {stored.shape}")
    steps = np.diff(values)
    mean = float(values[-1] - values[0]) / (len(values) - 1)
    # Coordinates of float32 are exact to about 1e-7 of the largest of them.
    digits = 4 * np.finfo(stored.dtype if stored.dtype.kind == "f" else np.float64).eps
    error = digits * float(np.abs(values).max())
    if mean <= 0 or np.abs(steps - mean).max() > TOLERANCE * mean + error:
        raise DataError(
            f"{name}: the coordinates must increase by equal steps, but these steps are from "
            f"{steps.min():g} to {steps.max():g}"
        )
    return rounded(mean, error / (len(values) - 1))


def spacings(
    coordinates: Sequence[NDArray[Any] | None], names: Sequence[str]
) -> tuple[float, ...] | None:
    """The spacing per axis; None if an axis has no coordinates."""
    found = [one for one in coordinates if one is not None]
    if len(found) < len(coordinates):
        return None
    return tuple(spacing(one, name) for one, name in zip(found, names, strict=True))


def rounded(value: float, error: float) -> float:
    """The number with at most five digits within `error` of `value`; otherwise `value`."""
    for digits in range(1, 6):
        short = float(f"{value:.{digits}g}")
        if abs(short - value) <= error:
            return short
    return value
