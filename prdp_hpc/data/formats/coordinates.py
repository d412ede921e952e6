"""Spacings of coordinates, which must be constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prdp_hpc.data.layout import BadTrajectoryError, DataError

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
    steps, error = np.diff(values), _rounding(stored)
    mean = float(values[-1] - values[0]) / (len(values) - 1)
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


def check_times(times: ArrayLike, step: float, name: str) -> None:
    """Check that the steps of a trajectory are those of the first one of its file.

    Raises
    ------
    BadTrajectoryError
        If they are not, or not equal; `name` is that of the trajectory.
    """
    stored = np.asarray(times)
    steps = np.diff(stored.astype(np.float64))
    # Also false for NaN.
    if not (np.abs(steps - step) <= TOLERANCE * step + _rounding(stored)).all():
        raise BadTrajectoryError(
            f"{name} has time steps from {steps.min():g} to {steps.max():g}, the first trajectory "
            f"of the file {step:g}"
        )


def _rounding(stored: NDArray[Any]) -> float:
    """The error of coordinates: those of float32 are exact to about 1e-7 of the largest of them."""
    digits = 4 * np.finfo(stored.dtype if stored.dtype.kind == "f" else np.float64).eps
    return float(digits * np.abs(stored.astype(np.float64)).max(initial=0.0))


def rounded(value: float, error: float) -> float:
    """The number with at most five digits within `error` of `value`; otherwise `value`."""
    for digits in range(1, 6):
        short = float(f"{value:.{digits}g}")
        if abs(short - value) <= error:
            return short
    return value
