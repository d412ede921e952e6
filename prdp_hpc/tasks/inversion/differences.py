"""Differences of a field between neighbouring grid points."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prdp_hpc.grid.halo import Halo
from prdp_hpc.grid.structured import Grid


class ForwardDifferences:
    """`(m_{i+1} − m_i) / h` along each axis; 0 at the last point of an axis that is not periodic.

    Creating an object is collective, because it sets up the halo exchange.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._halo = Halo(grid.partition, 0, 1)
        self._last = [
            grid.boundary[axis] != "periodic" and part.stop == grid.shape[axis]
            for axis, part in enumerate(grid.local_slices)
        ]

    @property
    def cell(self) -> float:
        """The volume of a cell."""
        return math.prod(self.grid.spacing)

    def __call__(self, field: Tensor) -> list[Tensor]:
        """One field of `local_shape` per axis; differentiable, collective."""
        padded = self._halo(field)
        return [self._along(padded, field, axis) for axis in range(self.grid.dim)]

    def _along(self, padded: Tensor, field: Tensor, axis: int) -> Tensor:
        here = [slice(0, n) for n in self.grid.local_shape]
        here[axis] = slice(1, self.grid.local_shape[axis] + 1)
        difference = (padded[tuple(here)] - field) / self.grid.spacing[axis]
        if not self._last[axis]:
            return difference
        inside = torch.ones(self.grid.local_shape[axis], dtype=field.dtype)
        inside[-1] = 0.0
        view = [1] * self.grid.dim
        view[axis] = -1
        return difference * inside.view(view)
