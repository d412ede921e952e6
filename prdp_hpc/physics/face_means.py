"""Means of a field at the faces between neighbouring grid points."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from prdp_hpc.autograd.linear_map import LinearMap
from prdp_hpc.grid.halo import Halo
from prdp_hpc.grid.sides import ENDS
from prdp_hpc.grid.structured import Grid

FaceMean = Literal["arithmetic", "harmonic"]
"""The mean of κ between two points."""


class FaceMeans:
    """The mean of positive fields at all faces; at a side that of the point next to it.

    Called with this rank's part, `(..., *local_shape)`, it returns the means at the faces of all
    axes, `(..., faces)`. Along its axis there is one face more than there are points.
    Differentiable to any order, collective.

    The arithmetic mean is one linear map, which is given with its adjoint: recording the sum of
    each axis takes several times as long. The harmonic mean is the reciprocal of the arithmetic
    mean of reciprocals.

    Parameters
    ----------
    grid : the grid of the fields.
    kind : the mean.

    Attributes
    ----------
    shapes : the shapes of the faces of each axis.
    """

    def __init__(self, grid: Grid, kind: FaceMean) -> None:
        self.grid, self.kind = grid, kind
        self.shapes = [
            tuple(n + (along == axis) for along, n in enumerate(grid.local_shape))
            for axis in range(grid.dim)
        ]
        self._sizes = [math.prod(shape) for shape in self.shapes]
        self._halo = Halo(grid.partition, 1, 1)
        self._outer = [
            _outermost(grid.dim, axis, end)
            for axis, kind_of_axis in enumerate(grid.boundary)
            for end in ENDS
            if kind_of_axis != "periodic" and grid.face_shape(axis, end)[axis]
        ]
        self._arithmetic = LinearMap(self._means, self._of_means)

    def __call__(self, field: Tensor) -> Tensor:
        """Compute the means."""
        if self.kind == "harmonic":
            return self._arithmetic(field.reciprocal()).reciprocal()
        return self._arithmetic(field)

    def by_axis(self, faces: Tensor) -> list[Tensor]:
        """The faces of each axis, `(..., *shapes[axis])`; views."""
        parts = faces.split(self._sizes, dim=-1)
        return [part.unflatten(-1, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def _means(self, field: Tensor) -> Tensor:
        padded = self._halo.pad(field)
        for ghosts, points in self._outer:
            padded[ghosts] = padded[points]
        faces = field.new_empty(*field.shape[: -self.grid.dim], sum(self._sizes))
        for axis, own in enumerate(self.by_axis(faces)):
            torch.add(*self._beside(padded, axis), out=own)
        return faces.mul_(0.5)

    def _of_means(self, faces: Tensor) -> Tensor:
        """The adjoint of `_means`."""
        widths = (n + 2 for n in self.grid.local_shape)
        padded = faces.new_zeros(*faces.shape[:-1], *widths)
        for axis, own in enumerate(self.by_axis(0.5 * faces)):
            for points in self._beside(padded, axis):
                points += own
        for ghosts, points in self._outer:
            padded[points] += padded[ghosts]
        return self._halo.reverse_exchange(padded)

    def _beside(self, padded: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """The points before and after the faces of an axis; views."""
        along = axis - self.grid.dim
        line = padded[_index(self.grid.dim, axis, slice(None))]
        n = self.grid.local_shape[axis] + 1
        return line.narrow(along, 0, n), line.narrow(along, 1, n)


def _outermost(dim: int, axis: int, end: str) -> tuple[Any, Any]:
    """Where the points beyond a side are in an array with a halo, and those next to the side."""
    ghosts, points = (
        (slice(0, 1), slice(1, 2)) if end == "low" else (slice(-1, None), slice(-2, -1))
    )
    return _index(dim, axis, ghosts), _index(dim, axis, points)


def _index(dim: int, axis: int, part: slice) -> Any:
    """A part of one axis, with this rank's points of the others."""
    return (..., *(part if along == axis else slice(1, -1) for along in range(dim)))
