"""The coupled velocity–pressure system on a periodic staggered grid, as one sparse matrix."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.errors import InputError
from prdp_hpc.grid.halo import moved, neighbour
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import SparseOperator
from prdp_hpc.linalg.batched.matrix import BatchedMatrix
from prdp_hpc.linalg.torch_petsc import Constant, in_double
from prdp_hpc.petsc import PETSc
from prdp_hpc.physics.constraint import (
    BatchedConstraint,
    ConstraintPreconditioner,
    DifferentiableConstraint,
    PeriodicStokes,
)

Indices = NDArray[np.int32]


class StaggeredOperator(SparseOperator):
    """`[[F, G], [D, 0]]` with the momentum matrix F, the pressure gradient G and the divergence D.

    A rank's unknowns are its points of velocity_x, velocity_y, (velocity_z,) pressure, one field
    after the other. For `pc="fieldsplit"` the fields are named "velocity" and "pressure";
    `pc="constraint"` is a `ConstraintPreconditioner`.
    """

    promises_hold = True  # The pressure occurs in differences only; the divergence has the sum 0.

    def __init__(self, grid: Grid, dt: float, rows: Indices, cols: Indices) -> None:
        size, n_local = (grid.dim + 1) * grid.size, (grid.dim + 1) * grid.n_local
        constant_pressure = np.zeros(n_local)
        constant_pressure[grid.dim * grid.n_local :] = 1.0
        super().__init__(
            rows, cols, (size, size), grid.comm, n_local=n_local, nullspace=constant_pressure
        )
        self.staggered_grid = grid
        self._stokes = PeriodicStokes(grid, dt)

    def _share(self, other: Any) -> None:
        super()._share(other)
        self._stokes = other._stokes

    @property
    def stencil_grid(self) -> Grid:
        """See `SparseOperator`."""
        return self.staggered_grid

    def attach_preconditioner(self, pc: Any, name: str) -> None:
        """Set the two fields of "fieldsplit", or the context of "constraint"."""
        if name == "constraint":
            pc.setType(PETSc.PC.Type.PYTHON)
            pc.setPythonContext(ConstraintPreconditioner(self._stokes, self.memory))
        elif name == "fieldsplit":
            start, end = self.row_range
            middle = start + self.staggered_grid.dim * self.staggered_grid.n_local
            velocity = PETSc.IS().createStride(middle - start, start, 1, comm=self.comm)
            pressure = PETSc.IS().createStride(end - middle, middle, 1, comm=self.comm)
            pc.setFieldSplitIS(("velocity", velocity), ("pressure", pressure))

    def batched_preconditioner(self, name: str, matrix: BatchedMatrix) -> BatchedConstraint:
        """See `SparseOperator`; that of "constraint"."""
        return BatchedConstraint.of(self._stokes, matrix)

    def differentiable_preconditioner(
        self, name: str, diagonal: Tensor
    ) -> DifferentiableConstraint:
        """Return the preconditioner "constraint"."""
        return DifferentiableConstraint(self._stokes, diagonal)


class StaggeredSystem:
    """Pattern and values of the coupled system, for any number of winds at a time.

    Component c of the velocity is half a cell before the pressure's next point along its axis; the
    gradient is a forward and the divergence a backward difference, advection is first-order upwind,
    diffusion central. The wind across an axis is the mean of four neighbours: the point itself, the
    one before along the axis of c, the one after along the axis of the wind, and the one in both
    directions, as in the paper's code.

    Component 0 is along the grid's last axis (x), 1 along the one before (y), 2 along the first of
    three (z).
    """

    def __init__(self, grid: Grid, viscosity: float, dt: float) -> None:
        if any(boundary != "periodic" for boundary in grid.boundary) or grid.dim < 2:
            raise InputError(
                f"Navier–Stokes needs a periodic grid of 2 or 3 dimensions, not {grid.boundary} in "
                f"{grid.dim}-D"
            )
        self.grid, self.viscosity, self.dt = grid, viscosity, dt

    @cached_property
    def operator(self) -> StaggeredOperator:
        """The coupled matrix; it is made on first use, which is collective."""
        dim, numbers = self.grid.dim, self._numbers
        here = _part(dim)
        rows, cols = [], []
        for c in range(dim):
            entries = [
                numbers[(c, *_part(dim, axis, side))] for axis in range(dim) for side in (-1, 1)
            ]
            entries += [
                numbers[(c, *here)],
                numbers[(dim, *_part(dim, self.axis(c), 1))],
                numbers[(dim, *here)],
            ]
            cols.append(np.stack([entry.ravel() for entry in entries]))
            rows.append(np.broadcast_to(numbers[(c, *here)].ravel(), cols[-1].shape))
        entries = [
            numbers[(c, *_part(dim, self.axis(c), side))] for c in range(dim) for side in (-1, 0)
        ]
        # An explicit zero on the diagonal, which PETSc's factorisations need.
        cols.append(np.stack([entry.ravel() for entry in [*entries, numbers[(dim, *here)]]]))
        rows.append(np.broadcast_to(numbers[(dim, *here)].ravel(), cols[-1].shape))
        pattern = [np.concatenate([part.ravel() for part in parts]) for parts in (rows, cols)]
        return StaggeredOperator(self.grid, self.dt, *pattern)

    def axis(self, component: int) -> int:
        """The grid's axis along which a component of the velocity points."""
        return self.grid.dim - 1 - component

    def values(self, wind: Tensor, device: torch.device | None = None) -> Tensor:
        """The matrices' values `(B, nnz_local)` for winds `(B, dim, *local_shape)`, on a device
        (default: where PETSc solves for the wind's); differentiable, collective.
        """
        device = self.operator.on(wind.device).memory.device if device is None else device
        padded = self.grid.halo(in_double(wind, device))
        rows = [
            torch.stack(self._momentum(padded, c), dim=1).flatten(1) for c in range(self.grid.dim)
        ]
        return torch.cat([*rows, self._divergence_entries.on(device).expand(len(wind), -1)], dim=-1)

    def _momentum(self, padded: Tensor, c: int) -> list[Tensor]:
        """Entries of the rows of component c: before and after along each axis, the diagonal, and
        the pressure after and at the point.
        """
        entries: list[Tensor] = []
        for axis, h in enumerate(self.grid.spacing):
            wind, viscous = self._wind(padded, c, axis) / h, self.viscosity / h**2
            entries += [-viscous - wind.clamp(min=0.0), wind.clamp(max=0.0) - viscous]
        here = 1.0 / self.dt - torch.stack(entries).sum(dim=0)
        after = torch.full_like(here, 1.0 / self.grid.spacing[self.axis(c)])
        return [*entries, here, after, -after]

    def _wind(self, padded: Tensor, c: int, axis: int) -> Tensor:
        """The wind along `axis` at the points of component c, `(B, *local_shape)`."""
        dim, own = self.grid.dim, self.axis(c)
        field = padded[:, dim - 1 - axis]
        if axis == own:
            return neighbour(field, dim, {})
        # Sums of pairs along one axis, then along the other, so that each pair is summed once.
        plane: Any = (
            Ellipsis,
            *(slice(None) if other in (own, axis) else slice(1, -1) for other in range(dim)),
        )
        return 0.25 * _pairs(_pairs(field[plane], own - dim, 0), axis - dim, 1)

    @cached_property
    def _divergence_entries(self) -> Constant:
        h = [self.grid.spacing[self.axis(c)] for c in range(self.grid.dim)]
        row = torch.tensor(
            [sign / step for step in h for sign in (-1, 1)] + [0.0], dtype=torch.float64
        )
        return Constant(row.repeat_interleave(self.grid.n_local))

    @cached_property
    def _numbers(self) -> Any:
        """Global numbers of all fields with one halo layer, `(dim + 1, *local_shape + 2)`."""
        scalar, fields = self.grid.numbering, self.grid.dim + 1
        sizes = np.array([math.prod(s.stop - s.start for s in block) for block in self.grid.blocks])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        owner = np.searchsorted(starts, scalar, side="right") - 1
        first = fields * starts[owner] + scalar - starts[owner]
        return np.stack([first + field * sizes[owner] for field in range(fields)]).astype(
            PETSc.IntType
        )


def _pairs(field: Tensor, along: int, first: int) -> Tensor:
    """Sums of neighbours along an axis with one halo layer; `first`: 0 for a point and the one
    before it, 1 for a point and the one after it.
    """
    n = field.shape[along] - 2
    return field.narrow(along, first, n) + field.narrow(along, first + 1, n)


def _part(dim: int, axis: int = 0, shift: int = 0) -> tuple[slice, ...]:
    return moved(dim, {axis: shift})
