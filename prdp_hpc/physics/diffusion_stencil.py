"""The matrix of the diffusion operator `−∇·(κ ∇u)` on a grid, and its values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.autograd.linear_map import LinearMap
from prdp_hpc.grid.geometry import End
from prdp_hpc.grid.halo import Halo
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import SparseOperator
from prdp_hpc.petsc import PETSc
from prdp_hpc.physics.side_conditions import Side, SideConditions

FaceMean = Literal["arithmetic", "harmonic"]
"""The mean of κ between two points."""


HOST = torch.device("cpu")


@dataclass(frozen=True)
class _Tables:
    """What a stencil makes its values with, on one device; it does not change.

    Attributes
    ----------
    weights : `1 / h²` of each face, at sides times the multiple of κ of their condition.
    of_values : the index in the values of each entry of the table of all entries.
    of_table : the index in this table of each value.
    robin : the indices of the faces of Robin sides; none on ranks that do not touch them.
    """

    weights: Tensor
    of_values: Tensor
    of_table: Tensor
    robin: dict[tuple[int, End], Tensor]

    def on(self, device: torch.device) -> _Tables:
        """A copy on a device."""
        return _Tables(
            self.weights.to(device),
            self.of_values.to(device),
            self.of_table.to(device),
            {place: faces.to(device) for place, faces in self.robin.items()},
        )


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
            beside = slice(None, -2), slice(2, None)
            for part, position in zip(beside, self._positions(axis), strict=True):
                neighbours[:, position] = numbers[_index(dim, axis, part)].reshape(-1)
        present = neighbours >= 0
        self._means = FaceMeans(grid, face_mean, self.conditions.sides)
        weights = self._face_weights()
        tables = _Tables(weights, *self._placed(present), self._robin_faces(len(weights)))
        self._tables = {HOST: tables}
        self._unit: dict[torch.device, Tensor] = {}
        self._ones: dict[torch.device, Tensor] = {}
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

    def _placed(self, present: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        """The indices between the values, sorted by rows, and a table of all entries by their
        position in the row, `(2 dim + 1, n_local)`: see `_Tables`. In the table an entry beyond a
        side has the index of a further value.
        """
        count = int(present.sum())
        table = np.full(present.shape, count, dtype=np.int32)
        table[present] = np.arange(count)
        rows, positions = np.nonzero(present)
        of_table = (positions * len(present) + rows).astype(np.int32)
        return torch.from_numpy(table.T.reshape(-1).copy()), torch.from_numpy(of_table)

    def _on(self, device: torch.device) -> _Tables:
        if device not in self._tables:
            self._tables[device] = self._tables[HOST].on(device)
        return self._tables[device]

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
            values = self._unit_values(device) * (diffusivity * scale)
        else:
            field = diffusivity.expand(
                torch.broadcast_shapes(diffusivity.shape, self.grid.local_shape)
            )
            values = self._assembled(field, scale, coefficients)
        return values + mass * self._identity(device) if mass else values

    def _assembled(
        self, field: Tensor, scale: float | Tensor, coefficients: Sequence[Tensor]
    ) -> Tensor:
        """The values for the mass 0."""
        tables = self._on(field.device)
        faces = self._means(field) * (tables.weights * scale)
        for side, coefficient in zip(self.conditions.robin, coefficients, strict=True):
            own, rate = side.next_to(field), coefficient * side.spacing
            wall = 2.0 * own * rate / (rate + 2.0 * own) * (scale / side.spacing**2)
            faces = faces.index_add(-1, tables.robin[side.place], wall.flatten(-self.grid.dim))
        return LinearMap(self._entries, self._of_faces)(faces)

    def _face_weights(self) -> Tensor:
        by_axis = [
            torch.full(shape, 1.0 / h**2, dtype=torch.float64)
            for shape, h in zip(self._means.shapes, self.grid.spacing, strict=True)
        ]
        for side in self.conditions.sides:
            side.next_to(by_axis[side.axis]).mul_(side.wall)
        return torch.cat([own.flatten() for own in by_axis])

    def _robin_faces(self, count: int) -> dict[tuple[int, End], Tensor]:
        by_axis = self._means.by_axis(torch.arange(count))
        return {
            side.place: side.next_to(by_axis[side.axis]).flatten() for side in self.conditions.robin
        }

    def _entries(self, faces: Tensor) -> Tensor:
        """The values of the mass 0 from the coefficients of all faces."""
        leading, dim = faces.shape[:-1], self.grid.dim
        table = faces.new_empty(*leading, 2 * dim + 1, *self.grid.local_shape)
        diagonal = self._entry(table, dim).zero_()
        for face, position in self._faces_by_entry(faces):
            diagonal += face
            torch.neg(face, out=self._entry(table, position))
        return _selected(table.flatten(-dim - 1), self._on(faces.device).of_table)

    def _of_faces(self, values: Tensor) -> Tensor:
        """The adjoint of `_entries`."""
        leading, dim = values.shape[:-1], self.grid.dim
        tables = self._on(values.device)
        padded = torch.cat([values, values.new_zeros(*leading, 1)], dim=-1)
        table = _selected(padded, tables.of_values)
        table = table.unflatten(-1, (2 * dim + 1, *self.grid.local_shape))
        faces = values.new_zeros(*leading, len(tables.weights))
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

    def _unit_values(self, device: torch.device) -> Tensor:
        """The values for κ = 1, mass 0 and scale 1 without Robin sides; those for other numbers κ
        are multiples of them. Made on first use: every mean of κ = 1 is 1, so that the coefficients
        of the faces are their weights.
        """
        if device not in self._unit:
            self._unit[device] = self._entries(self._on(device).weights)
        return self._unit[device]

    def _identity(self, device: torch.device) -> Tensor:
        """The values of the identity; made on first use."""
        if device not in self._ones:
            table = torch.zeros(
                2 * self.grid.dim + 1, self.grid.n_local, dtype=torch.float64, device=device
            )
            table[self.grid.dim] = 1.0
            self._ones[device] = _selected(table.reshape(-1), self._on(device).of_table)
        return self._ones[device]


def _selected(rows: Tensor, index: Tensor) -> Tensor:
    """`rows[..., index]`, row by row, because torch selects faster from one axis than from two."""
    if rows.dim() == 1:
        return rows.index_select(0, index)
    flat = rows.reshape(-1, rows.shape[-1])
    found = rows.new_empty(len(flat), len(index))
    for row, own in zip(flat, found, strict=True):
        torch.index_select(row, 0, index, out=own)
    return found.reshape(*rows.shape[:-1], len(index))


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
    sides : the sides of the grid.

    Attributes
    ----------
    shapes : the shapes of the faces of each axis.
    """

    def __init__(self, grid: Grid, kind: FaceMean, sides: Sequence[Side]) -> None:
        self.grid, self.kind = grid, kind
        self.shapes = [
            tuple(n + (along == axis) for along, n in enumerate(grid.local_shape))
            for axis in range(grid.dim)
        ]
        self._sizes = [math.prod(shape) for shape in self.shapes]
        self._outer = [
            _outermost(grid.dim, side.axis, side.end)
            for side in sides
            if side.face_shape[side.axis]
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

    @cached_property
    def _halo(self) -> Halo:
        """The exchange of one layer of points, which a number κ does not need; collective."""
        return Halo(self.grid.partition, 1, 1)

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
