"""The matrix of the diffusion operator `−∇·(κ ∇u)` on a grid, and its values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.autograd.linear_map import LinearMap
from prdp_hpc.grid.halo import moved
from prdp_hpc.grid.sides import End
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import SparseOperator
from prdp_hpc.linalg.memory import Constant
from prdp_hpc.petsc import PETSc
from prdp_hpc.physics.face_means import FaceMean, FaceMeans
from prdp_hpc.physics.side_conditions import SideConditions


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

    The values are made from one coefficient per face, `scale · κ / h²`: both rows of a face have
    its negative beside the diagonal, and both diagonals contain it. This is one linear map, which
    is given with its adjoint (`_entries`, `_of_faces`): recording the sums of all entries takes
    several times as long.
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
        dim, numbers = grid.dim, grid.numbering
        own = numbers[(slice(1, -1),) * dim].reshape(-1)
        neighbours = np.empty((own.size, 2 * dim + 1), dtype=PETSc.IntType)
        neighbours[:, dim] = own
        for axis in range(dim):
            for step, position in zip((-1, 1), self._positions(axis), strict=True):
                neighbours[:, position] = numbers[moved(dim, {axis: step})].reshape(-1)
        present = neighbours >= 0
        self._place_entries(present)
        self._means = FaceMeans(grid, face_mean)
        self._weights = Constant(self._face_weights())
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

    def _positions(self, axis: int) -> tuple[int, int]:
        """The positions in a row of the entries of both neighbours along an axis."""
        return axis, 2 * self.grid.dim - axis

    def _place_entries(self, present: NDArray[np.bool_]) -> None:
        """Make the indices between the values, sorted by rows, and a table of all entries by their
        position in the row, `(2 dim + 1, n_local)`. In the table an entry beyond a side has the
        index of a further value.
        """
        count = int(present.sum())
        table = np.full(present.shape, count, dtype=np.int32)
        table[present] = np.arange(count)
        rows, positions = np.nonzero(present)
        of_values = positions * len(present) + rows
        self._table_of_values = Constant(torch.from_numpy(table.T.reshape(-1).copy()))
        self._values_of_table = Constant(torch.from_numpy(of_values.astype(np.int32)))

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
        device = diffusivity.device
        if diffusivity.dim() == 0 and not coefficients:
            values = self._unit_values.on(device) * (diffusivity * scale)
        else:
            field = diffusivity.expand(
                torch.broadcast_shapes(diffusivity.shape, self.grid.local_shape)
            )
            values = self._assembled(field, scale, coefficients)
        return values + mass * self._identity.on(device) if mass else values

    def _assembled(
        self, field: Tensor, scale: float | Tensor, coefficients: Sequence[Tensor]
    ) -> Tensor:
        """The values for the mass 0."""
        faces = self._means(field) * (self._weights.on(field.device) * scale)
        for side, coefficient in zip(self.conditions.robin, coefficients, strict=True):
            own, rate = side.next_to(field), coefficient * side.spacing
            wall = 2.0 * own * rate / (rate + 2.0 * own) * (scale / side.spacing**2)
            index = self._robin_faces[side.place].on(field.device)
            faces = faces.index_add(-1, index, wall.flatten(-self.grid.dim))
        return LinearMap(self._entries, self._of_faces)(faces)

    def _face_weights(self) -> Tensor:
        """`1 / h²` of each face, at sides times the multiple of κ of their condition."""
        by_axis = [
            torch.full(shape, 1.0 / h**2, dtype=torch.float64)
            for shape, h in zip(self._means.shapes, self.grid.spacing, strict=True)
        ]
        for side in self.conditions.sides:
            side.next_to(by_axis[side.axis]).mul_(side.wall)
        return torch.cat([own.flatten() for own in by_axis])

    @cached_property
    def _robin_faces(self) -> dict[tuple[int, End], Constant]:
        """The indices of the faces of Robin sides; none on ranks that do not touch them."""
        by_axis = self._means.by_axis(torch.arange(len(self._weights.on(torch.device("cpu")))))
        return {
            side.place: Constant(side.next_to(by_axis[side.axis]).flatten())
            for side in self.conditions.robin
        }

    def _entries(self, faces: Tensor) -> Tensor:
        """The values of the mass 0 from the coefficients of all faces."""
        leading, dim = faces.shape[:-1], self.grid.dim
        table = faces.new_empty(*leading, 2 * dim + 1, *self.grid.local_shape)
        diagonal = self._entry(table, dim).zero_()
        for face, position in self._faces_by_entry(faces):
            diagonal += face
            torch.neg(face, out=self._entry(table, position))
        return _selected(table.flatten(-dim - 1), self._values_of_table.on(faces.device))

    def _of_faces(self, values: Tensor) -> Tensor:
        """The adjoint of `_entries`."""
        leading, dim = values.shape[:-1], self.grid.dim
        padded = torch.cat([values, values.new_zeros(*leading, 1)], dim=-1)
        table = _selected(padded, self._table_of_values.on(values.device))
        table = table.unflatten(-1, (2 * dim + 1, *self.grid.local_shape))
        faces = values.new_zeros(*leading, len(self._weights.on(torch.device("cpu"))))
        diagonal = self._entry(table, dim)
        for face, position in self._faces_by_entry(faces):
            face += diagonal - self._entry(table, position)
        return faces

    def _faces_by_entry(self, faces: Tensor) -> Iterator[tuple[Tensor, int]]:
        """For each entry beside the diagonal the faces between it and the point of its row, of the
        shape of fields, and its position in the row; views.
        """
        for axis, own in enumerate(self._means.by_axis(faces)):
            for start, position in enumerate(self._positions(axis)):
                n = self.grid.local_shape[axis]
                yield own.narrow(axis - self.grid.dim, start, n), position

    def _entry(self, table: Tensor, position: int) -> Tensor:
        """The entries of all rows at a position, `(..., *local_shape)`; a view."""
        return table.select(-self.grid.dim - 1, position)

    @cached_property
    def _unit_values(self) -> Constant:
        """The values for κ = 1, mass 0 and scale 1 without Robin sides; those for other numbers κ
        are multiples of them. Made on first use, which is collective.
        """
        return Constant(self._assembled(torch.ones(self.grid.local_shape).double(), 1.0, ()))

    @cached_property
    def _identity(self) -> Constant:
        table = torch.zeros(2 * self.grid.dim + 1, self.grid.n_local, dtype=torch.float64)
        table[self.grid.dim] = 1.0
        index = self._values_of_table.on(table.device)
        return Constant(_selected(table.reshape(-1), index))


def _selected(rows: Tensor, index: Tensor) -> Tensor:
    """`rows[..., index]`, row by row, because torch selects faster from one axis than from two."""
    if rows.dim() == 1:
        return rows.index_select(0, index)
    flat = rows.reshape(-1, rows.shape[-1])
    found = rows.new_empty(len(flat), len(index))
    for row, own in zip(flat, found, strict=True):
        torch.index_select(row, 0, index, out=own)
    return found.reshape(*rows.shape[:-1], len(index))
