"""Linear interpolation between two grids of one domain: weights, and the matrix."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prdp_hpc.errors import InputError
from prdp_hpc.petsc import PETSc

if TYPE_CHECKING:
    from prdp_hpc.grid.structured import Grid


def interpolation_matrix(fine: Grid, coarse: Grid) -> Any:
    """See `Grid.interpolation_from`."""
    if (coarse.boundary, coarse.length) != (fine.boundary, fine.length):
        raise InputError(
            f"{coarse} of length {coarse.length} and {fine} of length {fine.length} do not "
            "share the domain: an interpolation needs equal lengths and boundaries"
        )
    columns: Any = PETSc.IntType(0)
    weights: Any = 1.0
    for axis in range(fine.dim):
        index, weight = linear_weights(fine, coarse, axis)
        # Axes 0 … dim − 1 run over the fine points, dim … 2 dim − 1 over the two coarse
        # neighbours along each axis.
        view = [1] * (2 * fine.dim)
        view[axis], view[fine.dim + axis] = index.shape
        columns = columns + (index * math.prod(coarse.shape[axis + 1 :])).astype(
            PETSc.IntType
        ).reshape(view)
        weights = weights * weight.reshape(view)
    weights = weights.reshape(fine.n_local, -1)
    needed = weights != 0.0
    columns = columns.reshape(fine.n_local, -1)[needed]
    if fine.comm.size > 1:
        columns = coarse.dm.getAO().app2petsc(columns)
    first = np.concatenate([[0], np.cumsum(needed.sum(axis=1))]).astype(PETSc.IntType)
    sizes = ((fine.n_local, fine.size), (coarse.n_local, coarse.size))
    return PETSc.Mat().createAIJ(sizes, csr=(first, columns, weights[needed]), comm=fine.comm)


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
