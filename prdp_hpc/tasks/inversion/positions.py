"""Points between the points of a grid: values there, and sources there."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.autograd.linear_map import LinearMap
from prdp_hpc.distributed.transport import transport_for
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid


class Positions:
    """Points anywhere in the domain of a grid, with multilinear interpolation between its points.

    Beyond the outermost points a field is taken to go on to 0 (axes with `boundary="dirichlet"`),
    constantly (neumann), or periodically. Each rank has the part of each interpolation that its own
    grid points have.

    Parameters
    ----------
    grid : where fields live.
    points : `(n, dim)`, coordinates in units of the domain's length, the same on all ranks.

    Raises
    ------
    ValueError
        For points of another number of coordinates, or outside of the domain.
    """

    def __init__(self, grid: Grid, points: NDArray[np.float64] | Sequence[Sequence[float]]) -> None:
        self.grid, self.points = grid, np.asarray(points, dtype=np.float64)
        _check(grid, self.points)
        corners = [_corners(grid, axis, self.points[:, axis]) for axis in range(grid.dim)]
        places, owners, weights = [], [], []
        for choice in itertools.product((0, 1), repeat=grid.dim):
            index = [corner[0][:, side] for corner, side in zip(corners, choice, strict=True)]
            weight = np.prod(
                [corner[1][:, side] for corner, side in zip(corners, choice, strict=True)], axis=0
            )
            mine = weight > 0.0
            for one, part in zip(index, grid.local_slices, strict=True):
                mine &= (one >= part.start) & (one < part.stop)
            local = tuple(
                one[mine] - part.start for one, part in zip(index, grid.local_slices, strict=True)
            )
            places.append(np.ravel_multi_index(local, grid.local_shape))
            owners.append(np.flatnonzero(mine))
            weights.append(weight[mine])
        self._places = torch.from_numpy(np.concatenate(places).astype(np.int64))
        self._owners = torch.from_numpy(np.concatenate(owners).astype(np.int64))
        self._weights = torch.from_numpy(np.concatenate(weights))
        self._map = LinearMap(self._gather, self._spread)

    @property
    def count(self) -> int:
        """How many points there are."""
        return len(self.points)

    def values(self, fields: Tensor) -> Tensor:
        """The fields `(..., *local_shape)` at all points, `(..., n)`, on every rank; collective.

        Differentiable: every rank must use the values alike; the backward pass takes this rank's
        part, without communication.
        """
        found: Tensor = self._map(fields)
        return found

    def sources(self, rates: Tensor) -> Tensor:
        """The density `(..., *local_shape)` of point sources of these rates `(..., n)`, such that
        its sum over the cells, times their volume, is the sum of the rates; not collective.

        The transpose of the interpolation, divided by the volume of a cell: what would fall beyond
        a Dirichlet boundary is lost there.
        """
        return self._spread(rates) / float(np.prod(self.grid.spacing))

    def _gather(self, fields: Tensor) -> Tensor:
        flat = fields.reshape(*fields.shape[: -self.grid.dim], self.grid.n_local)
        found = torch.zeros(*flat.shape[:-1], self.count, dtype=fields.dtype)
        weights = self._weights.to(fields.dtype)
        found.index_add_(-1, self._owners, flat[..., self._places] * weights)
        if self.grid.comm.size == 1:
            return found
        return transport_for(self.grid.comm, None, found.device).all_reduce(found)

    def _spread(self, values: Tensor) -> Tensor:
        lead = values.shape[:-1]
        flat = torch.zeros(*lead, self.grid.n_local, dtype=values.dtype)
        flat.index_add_(-1, self._places, values[..., self._owners] * self._weights.to(flat.dtype))
        return flat.reshape(*lead, *self.grid.local_shape)


def lattice(grid: Grid, per_axis: int) -> NDArray[np.float64]:
    """`per_axis` points along each axis in the middle of as many equal parts, `(n, dim)`."""
    axes = [(np.arange(per_axis) + 0.5) / per_axis * length for length in grid.length]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, grid.dim)


def _corners(
    grid: Grid, axis: int, x: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The two grid points beside each coordinate along an axis, and their weights, both `(n, 2)`;
    a weight of 0 for one that is beyond a boundary.
    """
    n, kind = grid.shape[axis], grid.boundary[axis]
    offset = {"dirichlet": 1.0, "neumann": 0.5, "periodic": 0.0}[kind]
    at = x / grid.spacing[axis] - offset
    if kind == "neumann":
        at = np.clip(at, 0.0, n - 1.0)
    # Close to a grid point rounding must not decide between neighbours.
    left = np.floor(at + 1e-9).astype(np.int64)
    part = np.clip(at - left, 0.0, 1.0)
    index = np.stack([left, left + 1], axis=-1)
    weight = np.stack([1.0 - part, part], axis=-1)
    if kind == "periodic":
        return index % n, weight
    return index, np.where((index < 0) | (index >= n), 0.0, weight)


def _check(grid: Grid, points: NDArray[np.float64]) -> None:
    if points.ndim != 2 or points.shape[1] != grid.dim:
        raise InputError(
            f"positions must have {grid.dim} coordinates each, (n, {grid.dim}) on this grid, not "
            f"the shape {points.shape}"
        )
    inside = np.isfinite(points) & (points >= 0.0) & (points <= np.asarray(grid.length))
    if not inside.all():
        first = int(np.flatnonzero(~inside.all(axis=1))[0])
        raise InputError(
            f"position {first}, {points[first].tolist()}, lies outside of the domain of length "
            f"{list(grid.length)}: coordinates count from 0 in units of the length"
        )
