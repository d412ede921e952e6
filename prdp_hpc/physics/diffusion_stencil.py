"""The matrix of the diffusion operator `−∇·(κ ∇u)` on a grid, and its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.grid.sides import ENDS, End
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import SparseOperator
from prdp_hpc.linalg.memory import Constant
from prdp_hpc.petsc import PETSc
from prdp_hpc.physics.shifts import moved
from prdp_hpc.physics.side_conditions import SideConditions

FaceMean = Literal["arithmetic", "harmonic"]
"""The mean of κ between two points."""


@dataclass(frozen=True)
class _Neighbours:
    """The neighbours of every point on one side along one axis."""

    position: int  # of the entry in its row
    shift: Any  # selects the neighbours from an array with one halo layer
    inside: Constant  # whether the neighbour is a point of the grid, flat
    place: tuple[int, End]  # the axis and the direction
    wall: float  # see `Side.wall`
    per_area: float  # 1 / h²


class DiffusionStencil:
    """Second-order central differences of `mass · u − scale · ∇·(κ ∇u)` as a `SparseOperator`.

    Between two points κ is the mean of both, arithmetic or harmonic; at a side it is that of the
    point. A Dirichlet side is one spacing (interior points) or half a spacing (cell centres) from
    its points; a Neumann side adds nothing to the matrix; a Robin side with the coefficient a, at
    half a spacing, adds the face coefficient `2 κ a h / (a h + 2 κ) / h²`, by elimination of the
    value at the face. The contributions to the right-hand side are those of
    `SideConditions.right_hand_side`. The truncation error is O(h²) for smooth κ, and O(h) at the
    points next to a Dirichlet or Robin side, which does not lower the order of the solution.

    The entries are sorted by rows and columns, so that PETSc need not sort the pattern on one rank.
    """

    def __init__(
        self,
        grid: Grid,
        constant_nullspace: bool,
        conditions: SideConditions | None = None,
        face_mean: FaceMean = "arithmetic",
    ) -> None:
        self.grid, self.face_mean = grid, face_mean
        self.conditions = SideConditions(grid) if conditions is None else conditions
        walls = {side.place: side.wall for side in self.conditions.sides}
        numbers = grid.numbering
        own = numbers[(slice(1, -1),) * grid.dim].reshape(-1)
        neighbours = np.empty((own.size, 2 * grid.dim + 1), dtype=PETSc.IntType)
        neighbours[:, grid.dim] = own
        self._neighbours = []
        for axis in range(grid.dim):
            for end, step, position in zip(ENDS, (-1, 1), (axis, 2 * grid.dim - axis), strict=True):
                shift = moved(grid.dim, {axis: step})
                neighbours[:, position] = numbers[shift].reshape(-1)
                inside = Constant(torch.from_numpy(neighbours[:, position] >= 0))
                per_area, wall = 1.0 / grid.spacing[axis] ** 2, walls.get((axis, end), 0.0)
                self._neighbours.append(
                    _Neighbours(position, (..., *shift), inside, (axis, end), wall, per_area)
                )
        present = neighbours >= 0
        self._present = Constant(torch.from_numpy(present))
        self.operator = SparseOperator(
            np.repeat(own, present.sum(axis=1)),
            neighbours[present],
            (grid.size, grid.size),
            grid.comm,
            symmetric=True,
            grid=grid,
            constant_nullspace=constant_nullspace,
        )
        # Both entries of a face are the same number, and the sum of each row is the mass.
        self.operator.promises_hold = True

    def values(
        self,
        diffusivity: Tensor,
        mass: float,
        scale: float | Tensor,
        coefficients: Sequence[Tensor] = (),
    ) -> Tensor:
        """The operator's values for a diffusivity of shape `()` or `(..., *local_shape)`, `(...,
        nnz_local)`; differentiable, collective.

        `coefficients`: those of the Robin sides, from `SideConditions.coefficients`.
        """
        if diffusivity.dim() == 0:
            if not coefficients:
                device = diffusivity.device
                values = self._unit_values.on(device) * (diffusivity * scale)
                return values + mass * self._identity.on(device) if mass else values
            diffusivity = diffusivity.expand(self.grid.local_shape)
        robin = {
            side.place: (side, coefficient)
            for side, coefficient in zip(self.conditions.robin, coefficients, strict=True)
        }
        own = self._flat(diffusivity)
        padded = self.grid.halo(diffusivity)
        entries = [torch.empty(0)] * (2 * self.grid.dim + 1)
        diagonal = torch.full_like(own, mass)
        for near in self._neighbours:
            between = self._mean(own, self._flat(padded[near.shift]))
            wall = near.wall * own
            if near.place in robin:
                side, coefficient = robin[near.place]
                rate = self._flat(side.spread(coefficient * side.spacing))
                wall = 2.0 * own * rate / (rate + 2.0 * own)
            face = torch.where(near.inside.on(own.device), between, wall) * (scale * near.per_area)
            diagonal = diagonal + face
            entries[near.position] = -face
        entries[self.grid.dim] = diagonal
        return torch.stack(entries, dim=-1)[..., self._present.on(own.device)]

    def _flat(self, field: Tensor) -> Tensor:
        return field.reshape(*field.shape[: -self.grid.dim], self.grid.n_local)

    def _mean(self, one: Tensor, other: Tensor) -> Tensor:
        if self.face_mean == "arithmetic":
            return 0.5 * (one + other)
        return 2.0 * one * other / (one + other)

    @cached_property
    def _unit_values(self) -> Constant:
        """The values for κ = 1, mass 0 and scale 1 without Robin sides; those for other numbers κ
        are multiples of them.
        """
        row = torch.empty(2 * self.grid.dim + 1, dtype=torch.float64)
        for near in self._neighbours:
            row[near.position] = -near.per_area
        row[self.grid.dim] = sum(near.per_area for near in self._neighbours)
        present = self._present.on(row.device)
        entries = row.repeat(len(present), 1)
        for near in self._neighbours:
            if near.wall != 1.0:
                beyond = ~near.inside.on(row.device)
                entries[beyond, self.grid.dim] += (near.wall - 1.0) * near.per_area
        return Constant(entries[present])

    @cached_property
    def _identity(self) -> Constant:
        present = self._present.on(torch.device("cpu"))
        entries = torch.zeros(present.shape, dtype=torch.float64)
        entries[:, self.grid.dim] = 1.0
        return Constant(entries[present])
