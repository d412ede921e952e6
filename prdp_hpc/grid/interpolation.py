"""Weights of linear interpolation between two grids of one domain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from prdp_hpc.grid.structured import Grid


def linear_weights(
    fine: Grid, coarse: Grid, axis: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The two coarse neighbours of each of this rank's fine points of one axis, and the weights."""
    n, kind = coarse.shape[axis], coarse.boundary[axis]
    offset = {"dirichlet": 1.0, "neumann": 0.5, "periodic": 0.0}[kind]
    position = fine.axis_points(axis)[fine.local_slices[axis]] / coarse.spacing[axis] - offset
    left = np.floor(position + 1e-9).astype(np.int64)
    fraction = position - left
    fraction[fraction < 1e-9] = 0.0  # If points coincide, the other neighbour has no weight.
    index = np.stack([left, left + 1], axis=-1)
    weight = np.stack([1.0 - fraction, fraction], axis=-1)
    if kind == "periodic":
        return index % n, weight
    outside = (index < 0) | (index >= n)
    if kind == "neumann":
        weight = np.where(outside.any(axis=-1, keepdims=True), 1.0, weight)
    return np.clip(index, 0, n - 1), np.where(outside, 0.0, weight)
