"""Points between the points of a grid: interpolation to them, and sources at them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.autograd.linear_map import LinearMap
from prdp_hpc.distributed.transport import transport_for
from prdp_hpc.errors import InputError
from prdp_hpc.grid.geometry import ENDS
from prdp_hpc.grid.structured import Grid

# Rounding does not select the wrong neighbour close to a grid point.
_ROUNDING = 1e-9


class Positions:
    """Points in the domain of a grid, with multilinear interpolation between its points.

    Beyond the outermost grid points a field is extended linearly to 0 at the boundary (axes with
    `boundary="dirichlet"`), by a constant (neumann), or periodically, as the grid's default
    conditions require; at `linear_sides` it continues linearly from the two outermost points. Each
    rank computes the contribution of its grid points.

    Parameters
    ----------
    grid : Grid
        The grid of the fields.
    points : array_like
        Coordinates of shape `(n, dim)`, from 0 to the length of the domain and in the same unit,
        equal on all ranks.
    linear_sides : collection of (int, str), default ()
        The sides, as axis and `"low"` or `"high"`, whose condition is not the grid's default, e.g.
        those with boundary values.

    Attributes
    ----------
    points : numpy array
        The coordinates, of shape `(n, dim)`.
    linear_sides : frozenset
        These sides.

    Raises
    ------
    InputError
        If points have another number of coordinates or lie outside of the domain, or if the grid
        has no such side.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import Grid, Positions
    >>> grid = Grid((3,))  # points 1/4, 1/2 and 3/4; 0 at the boundary
    >>> positions = Positions(grid, [[0.125], [0.5]])
    >>> positions.values(torch.tensor([1.0, 2.0, 3.0]).double())
    tensor([0.5000, 2.0000], dtype=torch.float64)
    """

    def __init__(
        self,
        grid: Grid,
        points: NDArray[np.float64] | Sequence[Sequence[float]],
        linear_sides: Collection[tuple[int, str]] = (),
    ) -> None:
        self.grid, self.points = grid, _numbers(points)
        self.linear_sides = frozenset(linear_sides)
        _check(grid, self.points, self.linear_sides)
        corners = [
            _corners(grid, axis, self.points[:, axis], self.linear_sides)
            for axis in range(grid.dim)
        ]
        places, owners, weights = [], [], []
        for choice in itertools.product((0, 1), repeat=grid.dim):
            index = [corner[0][:, side] for corner, side in zip(corners, choice, strict=True)]
            weight = np.prod(
                [corner[1][:, side] for corner, side in zip(corners, choice, strict=True)], axis=0
            )
            mine = weight != 0.0
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
        """Number of points."""
        return len(self.points)

    def beyond(self, axis: int, end: str) -> NDArray[np.int64]:
        """Find the points between the outermost grid points and a side.

        Parameters
        ----------
        axis : int
            Axis of the side.
        end : str
            `"low"` or `"high"`.

        Returns
        -------
        numpy array
            Their numbers, of shape `(m,)`.
        """
        at = _places(self.grid, axis, self.points[:, axis])
        last = self.grid.shape[axis] - 1
        outside = at < -_ROUNDING if end == "low" else at > last + _ROUNDING
        return np.flatnonzero(outside)

    def values(self, fields: Tensor) -> Tensor:
        """Interpolate fields to all points; differentiable, collective.

        All ranks must compute the same function of the values. The backward pass then computes the
        gradient at this rank's grid points without communication.

        Parameters
        ----------
        fields : Tensor
            This rank's part of the fields, of shape `(..., *local_shape)`.

        Returns
        -------
        Tensor
            Values of shape `(..., n)`, equal on all ranks.
        """
        found: Tensor = self._map(fields)
        return found

    def sources(self, rates: Tensor) -> Tensor:
        """Compute the source density of point sources; not collective.

        It is the transpose of the interpolation, divided by the volume of a cell, so that the
        integral of the density is the sum of the rates, except for parts beyond a Dirichlet
        boundary.

        Parameters
        ----------
        rates : Tensor
            Rates of the sources, of shape `(..., n)`.

        Returns
        -------
        Tensor
            This rank's part of the density, of shape `(..., *local_shape)`.
        """
        return self._spread(rates) / float(np.prod(self.grid.spacing))

    def _gather(self, fields: Tensor) -> Tensor:
        flat = fields.reshape(*fields.shape[: -self.grid.dim], self.grid.n_local)
        found = self._moved(flat, self._places, self._owners, self.count)
        if self.grid.comm.size == 1:
            return found
        return transport_for(self.grid.comm, None, found.device).all_reduce(found)

    def _spread(self, values: Tensor) -> Tensor:
        flat = self._moved(values, self._owners, self._places, self.grid.n_local)
        return flat.reshape(*values.shape[:-1], *self.grid.local_shape)

    def _moved(self, source: Tensor, first: Tensor, second: Tensor, size: int) -> Tensor:
        """Numbers `(..., size)` that are sums of the weighted entries of `source`, from their
        places `first` to their places `second`.
        """
        weights = self._weights.to(source.dtype)
        found = torch.zeros(*source.shape[:-1], size, dtype=source.dtype)
        # Row by row: along the last of several axes, torch adds entry by entry, which is slow.
        rows = source.reshape(math.prod(source.shape[:-1]), source.shape[-1])
        for row, own in zip(rows, found.view(len(rows), size), strict=True):
            own.index_add_(0, second, row.index_select(0, first) * weights)
        return found


def lattice(grid: Grid, per_axis: int) -> NDArray[np.float64]:
    """Coordinates `(n, dim)` of a lattice: the midpoints of `per_axis` equal parts of each axis."""
    axes = [(np.arange(per_axis) + 0.5) / per_axis * length for length in grid.length]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, grid.dim)


def _places(grid: Grid, axis: int, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coordinates along an axis in spacings from its first grid point."""
    offset = {"dirichlet": 1.0, "neumann": 0.5, "periodic": 0.0}[grid.boundary[axis]]
    return x / grid.spacing[axis] - offset


def _corners(
    grid: Grid, axis: int, x: NDArray[np.float64], linear_sides: Collection[tuple[int, str]]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The two neighbouring grid points of each coordinate along an axis, and their weights, both
    `(n, 2)`. A point beyond a boundary has the weight 0.
    """
    n, kind = grid.shape[axis], grid.boundary[axis]
    low, high = ((axis, end) in linear_sides for end in ENDS)
    at = _places(grid, axis, x)
    if kind == "neumann":
        at = np.clip(at, -np.inf if low else 0.0, np.inf if high else n - 1.0)
    left = np.floor(at + _ROUNDING).astype(np.int64)
    part = np.clip(at - left, 0.0, 1.0)
    for is_linear, outermost in ((low, at < 0.0), (high, at > n - 1.0)):
        if is_linear:
            left = np.where(outermost, np.clip(left, 0, n - 2), left)
            part = np.where(outermost, at - left, part)
    index = np.stack([left, left + 1], axis=-1)
    weight = np.stack([1.0 - part, part], axis=-1)
    if kind == "periodic":
        return index % n, weight
    return index, np.where((index < 0) | (index >= n), 0.0, weight)


def _numbers(points: Any) -> NDArray[np.float64]:
    try:
        found = np.asarray(points)
    except (TypeError, ValueError) as error:
        raise InputError(f"positions must be an array of numbers: {error}") from None
    if found.dtype.kind not in "iuf":
        raise InputError(f"positions must be an array of numbers, not of {found.dtype}")
    return found.astype(np.float64)


def _check(
    grid: Grid, points: NDArray[np.float64], linear_sides: Collection[tuple[int, str]]
) -> None:
    known = {(a, end) for a in range(grid.dim) if grid.boundary[a] != "periodic" for end in ENDS}
    if not known.issuperset(linear_sides):
        raise InputError(
            f"linear_sides: {sorted(set(linear_sides) - known)[0]!r} is no side of this grid; give "
            f"some of {sorted(known)}"
        )
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
            f"{list(grid.length)}: coordinates must be between 0 and the length"
        )
