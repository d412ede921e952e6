"""Burgers' equation, one implicit step a call."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import (
    ColouredJacobian,
    NonlinearSolver,
    Solver,
    SparseOperator,
    solve_nonlinear,
)
from prdp_hpc.physics.newton import newton_solver
from prdp_hpc.physics.picard import VELOCITIES, Gradient, PicardStepper
from prdp_hpc.physics.shifts import moved, neighbour


class Burgers(PicardStepper):
    """`u_t + (u·∇)u = ν Δu` on a periodic grid in 1-D, 2-D or 3-D.

    Backward Euler, first-order upwind: each Picard iteration solves `(I + dt (w·∇_h − ν Δ_h)) u⁺ =
    u` with the wind w of the iteration before (at first u itself), for all components with one
    matrix. Along each axis

        `(w·∇_h) u = max(w₋, 0) (u_i − u_{i−1}) / h + min(w₊, 0) (u_{i+1} − u_i) / h`

    with the wind's means `w₋`, `w₊` at the faces before and after the point, so that shocks move at
    the right speed. First order in `dt` and `h`; stable for every `dt`.

    With a `NonlinearSolver` Newton's method solves the step instead: `F(u⁺) = u⁺ + dt (u⁺·∇_h − ν
    Δ_h) u⁺ − u = 0`, which Picard iterations converge to, from u and with the Jacobian by
    colouring.

    Parameters
    ----------
    grid : periodic.
    viscosity : ν ≥ 0 in length² / time.
    dt : time step, > 0.
    solver : solves the systems, which are not symmetric; a `NonlinearSolver`: by Newton's method.
    picard_iterations : linear systems a step; default 1. Not used by Newton's method.
    gradient : "full" (default): through the matrices and the right-hand side; "reduced": the
        matrices are taken as constant.

    Raises
    ------
    ValueError
        For a grid that is not periodic, a viscosity below 0, dt ≤ 0, no iteration, or an unknown
        gradient.

    A state is `(B, dim, *local_shape)`: velocity_x (along the last axis), velocity_y, velocity_z.

    Source: paper, section on the Burgers corrector; upwinding as in the authors' code.
    """

    def __init__(
        self,
        grid: Grid,
        viscosity: float,
        dt: float,
        solver: Solver | NonlinearSolver,
        picard_iterations: int = 1,
        gradient: Gradient = "full",
    ) -> None:
        periodic = all(boundary == "periodic" for boundary in grid.boundary)
        wrong = (
            None
            if periodic
            else InputError(f"Burgers' equation needs a periodic grid, not {grid.boundary}")
        )
        raise_together(grid.comm, wrong)
        super().__init__(grid, viscosity, dt, solver, picard_iterations, gradient)  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, section: Any, grid: Grid, solver: Any) -> Burgers:
        """The stepper of a section `physics`, also with `nonlinear: newton`; collective."""
        if getattr(section, "nonlinear", "picard") == "newton":
            solver = newton_solver(solver, section.newton)
        return super().from_config(section, grid, solver)

    @property
    def scheme(self) -> str:
        """How reference solutions are made, for their file."""
        if isinstance(self.solver, NonlinearSolver):
            return "backward Euler, first-order upwind, Newton's method"
        return super().scheme

    @property
    def channels(self) -> tuple[str, ...]:
        """velocity_x, velocity_y, velocity_z: as many as there are axes."""
        return VELOCITIES[: self.grid.dim]

    @cached_property
    def operator(self) -> SparseOperator:
        """The matrix of one sample; made on first use, collective then."""
        grid, numbers = self.grid, self.grid.numbering
        sides = [{axis: side} for axis in range(grid.dim) for side in (-1, 1)]
        cols = np.stack([numbers[moved(grid.dim, shift)].ravel() for shift in [*sides, {}]])
        rows = np.broadcast_to(cols[-1], cols.shape)
        return SparseOperator(
            rows.ravel(), cols.ravel(), (grid.size, grid.size), grid.comm, grid=grid
        )

    def values(self, wind: Tensor) -> Tensor:
        """The matrices' values `(B, nnz_local)` for winds `(B, dim, *local_shape)`; differentiable,
        collective.
        """
        dim = self.grid.dim
        padded = self.grid.halo(wind.to(device="cpu", dtype=torch.float64))
        entries = []
        for axis, h in enumerate(self.grid.spacing):
            viscous, n = self.dt * self.viscosity / h**2, self.grid.local_shape[axis]
            # One more face than points: each is summed once, for the points on both its sides.
            field, along = padded[:, dim - 1 - axis][_line(dim, axis)], axis - dim
            faces = (field.narrow(along, 0, n + 1) + field.narrow(along, 1, n + 1)) * (
                0.5 * self.dt / h
            )
            entries.append(-viscous - faces.narrow(along, 0, n).clamp(min=0.0))
            entries.append(faces.narrow(along, 1, n).clamp(max=0.0) - viscous)
        diagonal = 1.0 - torch.stack(entries).sum(dim=0)
        return torch.stack([*entries, diagonal], dim=1).flatten(1)

    def _right(self, state: Tensor) -> Tensor:
        return state.reshape(-1, self.grid.n_local)

    @cached_property
    def jacobian(self) -> ColouredJacobian:
        """The matrix of Newton's method, for all components together; made on first use,
        collective then.
        """
        return ColouredJacobian.on_grid(self.grid, channels=self.grid.dim)

    def residual(self, u: Tensor, old: Tensor) -> Tensor:
        """`F = A(u) u − u_old` of velocities `(b, dim, *local_shape)`; differentiable,
        collective.
        """
        dim = self.grid.dim
        padded = self.grid.halo(u)
        sides = [{axis: side} for axis in range(dim) for side in (-1, 1)]
        entries = self.values(u).view(len(u), 2 * dim + 1, 1, *self.grid.local_shape)
        product = sum(
            entries[:, position] * neighbour(padded, dim, side)
            for position, side in enumerate([*sides, {}])
        )
        return product - old

    def _step(self, state: Tensor) -> Tensor:
        if not isinstance(self.solver, NonlinearSolver):
            return super()._step(state)
        return solve_nonlinear(
            self.residual,
            state,
            state,
            self.solver,
            jacobian=self.jacobian,
            grid=self.grid,
            per_sample=True,
        )


def _line(dim: int, axis: int) -> Any:
    """From a field with one halo layer, the points with neighbours along one axis only."""
    return (Ellipsis, *(slice(None) if other == axis else slice(1, -1) for other in range(dim)))
