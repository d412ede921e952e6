"""Burgers' equation, one implicit step per call."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.errors import InputError
from prdp_hpc.grid.halo import moved, neighbour
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import (
    ColouredJacobian,
    NonlinearSolver,
    Solver,
    SparseOperator,
    solve_nonlinear,
)
from prdp_hpc.linalg.torch_petsc import Constant, in_double
from prdp_hpc.physics.boundaries import Boundaries, boundaries_of, numbers_of
from prdp_hpc.physics.newton import newton_solver
from prdp_hpc.physics.picard import VELOCITIES, Gradient, PicardStepper
from prdp_hpc.physics.velocity_walls import VelocityWalls


class Burgers(PicardStepper):
    """Burgers' equation `u_t + (u·∇)u = ν Δu` in 1-D, 2-D or 3-D, one implicit step per call.

    Backward Euler, first-order upwind: each Picard iteration solves

        (I + dt (w·∇_h − ν Δ_h)) u⁺ = u

    with the wind w of the iteration before (initially u), for all components with one matrix. Along
    each axis

        (w·∇_h) u = max(w₋, 0) (u_i − u_{i−1}) / h + min(w₊, 0) (u_{i+1} − u_i) / h

    with the wind's means `w₋`, `w₊` at the faces before and after the point, so that shocks have
    the right speed. First order in `dt` and `h`; stable for every `dt`.

    Axes of cell centres have sides: `Dirichlet` values are advected inward at inflow and act on the
    viscous term at half a cell; with `Neumann`, an outlet, `ν ∂u/∂n` is given and the interior
    values are advected outward.

    With a `NonlinearSolver` Newton's method solves the step instead: `F(u⁺) = u⁺ + dt (u⁺·∇_h − ν
    Δ_h) u⁺ − u = 0`, the limit of the Picard iterations, from u and with the Jacobian by colouring.
    A state is `(B, dim, *local_shape)`: velocity_x (along the last axis), velocity_y, velocity_z.

    Parameters
    ----------
    grid : Grid
        Each axis is periodic, or has cell centres (`boundary="neumann"`).
    viscosity : float
        The viscosity ν ≥ 0 in length² / time.
    dt : float
        Time step, > 0.
    solver : Solver or NonlinearSolver
        Solver of the systems, which are not symmetric; a `NonlinearSolver` selects Newton's method.
    picard_iterations : int, default 1
        Linear systems per step. Not used by Newton's method.
    gradient : {"full", "reduced"}, default "full"
        "full": through the matrices and the right-hand side; "reduced": the matrices are treated as
        constant.
    boundaries : sequence of tuple, optional
        Per axis a pair of conditions at its low and its high end, `Dirichlet` or `Neumann`, see
        `prdp_hpc.physics.boundaries`. Their values are shared by all samples: a number, a tensor of
        shape `()` or of the side's shape for all components, or `(dim, *face_shape)`. Default: no
        flux.

    Raises
    ------
    InputError
        For another grid, a Robin condition, a viscosity below 0, dt ≤ 0, less than one iteration,
        or an unknown gradient.

    Notes
    -----
    Source: PRDP (Bhatia, Koehler and Thuerey, ICLR 2025), section on the Burgers corrector; the
    upwinding is that of the authors' code.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import Burgers, Grid, Solver
    >>> grid = Grid((64,), boundary="periodic")
    >>> burgers = Burgers(grid, viscosity=1e-2, dt=0.01, solver=Solver("gmres", "jacobi", 1e-10))
    >>> u = torch.sin(2 * torch.pi * grid.coordinates()[0])[None, None]
    >>> after = burgers(u)
    >>> bool(after.abs().max() < u.abs().max()), abs(round(float(after.mean()), 6))
    (True, 0.0)
    """

    def __init__(
        self,
        grid: Grid,
        viscosity: float,
        dt: float,
        solver: Solver | NonlinearSolver,
        picard_iterations: int = 1,
        gradient: Gradient = "full",
        boundaries: Boundaries | None = None,
    ) -> None:
        wrong = None
        if "dirichlet" in grid.boundary:
            wrong = InputError(
                f"Burgers' equation needs a periodic grid, not {grid.boundary}; or, for conditions "
                "on sides, axes of cell centres (boundary='neumann')"
            )
        raise_together(grid.comm, wrong)
        self._walls = VelocityWalls(grid, boundaries)
        super().__init__(grid, viscosity, dt, solver, picard_iterations, gradient)  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, section: Any, grid: Grid, solver: Any) -> Burgers:
        """Make the stepper of a config's section `physics`; collective.

        With `nonlinear: newton` the steps are solved by Newton's method.
        """
        if section.nonlinear == "newton":
            solver = newton_solver(solver, section.newton)
        return cls(
            grid,
            section.viscosity,
            section.dt,
            solver,
            section.picard_iterations,
            section.gradient,
            boundaries_of(section.boundaries, grid.dim),
        )

    def attributes(self) -> dict[str, float]:
        """Return `dt`, `viscosity` and the numbers on the sides, for data files."""
        return {**super().attributes(), **numbers_of(self._walls.boundaries)}

    @property
    def scheme(self) -> str:
        """Description of the scheme, for the files of reference solutions."""
        if isinstance(self.solver, NonlinearSolver):
            return "backward Euler, first-order upwind, Newton's method"
        return super().scheme

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels: velocity_x, velocity_y, velocity_z, one per axis."""
        return VELOCITIES[: self.grid.dim]

    @cached_property
    def operator(self) -> SparseOperator:
        """The matrix of one sample; it is made on first use, which is collective."""
        grid, numbers = self.grid, self.grid.numbering
        sides = [{axis: side} for axis in range(grid.dim) for side in (-1, 1)]
        cols = np.stack([numbers[moved(grid.dim, shift)].ravel() for shift in [*sides, {}]])
        rows = np.broadcast_to(cols[-1], cols.shape)
        inside = cols >= 0
        return SparseOperator(
            rows[inside], cols[inside], (grid.size, grid.size), grid.comm, grid=grid
        )

    @cached_property
    def _inside(self) -> Constant | None:
        """Which entries belong to points of the grid, flat; None if all do."""
        if not self._walls.sides:
            return None
        numbers, dim = self.grid.numbering, self.grid.dim
        sides = [{axis: side} for axis in range(dim) for side in (-1, 1)]
        cols = np.stack([numbers[moved(dim, shift)].ravel() for shift in [*sides, {}]])
        return Constant(torch.from_numpy(cols.ravel() >= 0))

    def values(self, wind: Tensor) -> Tensor:
        """Return the values `(B, nnz_local)` of the matrices for winds `(B, dim, *local_shape)`.

        Differentiable, collective.
        """
        device = self.solver.device_for(self.operator, wind.device)
        numbers = [side.to(device) for side in self._walls.numbers()]
        found = self._entries(in_double(wind, device), numbers).flatten(1)
        return found if self._inside is None else found[:, self._inside.on(device)]

    def _entries(self, wind: Tensor, sides: list[Tensor]) -> Tensor:
        """The entries before and after along each axis, and the diagonal:
        `(B, 2 dim + 1, *local_shape)`; 0 beyond the sides.
        """
        dim = self.grid.dim
        padded = self.grid.halo(wind)
        entries = []
        for axis, h in enumerate(self.grid.spacing):
            viscous, n = self.dt * self.viscosity / h**2, self.grid.local_shape[axis]
            # There is one more face than points; each is computed once for both points beside it.
            field, along = padded[:, dim - 1 - axis][_line(dim, axis)], axis - dim
            faces = (field.narrow(along, 0, n + 1) + field.narrow(along, 1, n + 1)) * (
                0.5 * self.dt / h
            )
            entries.append(-viscous - faces.narrow(along, 0, n).clamp(min=0.0))
            entries.append(faces.narrow(along, 1, n).clamp(max=0.0) - viscous)
        held = torch.zeros((), device=wind.device)
        for side, numbers in zip(self._walls.sides, sides, strict=True):
            position = 2 * side.axis + (side.end == "high")
            entries[position] = entries[position] * self._walls.elsewhere(side).to(wind.device)
            held = held + side.spread(self._walls.weight(side, numbers, self.viscosity))
        diagonal = 1.0 - torch.stack(entries).sum(dim=0)
        if self._walls.sides:
            diagonal = diagonal + self.dt * held
        return torch.stack([*entries, diagonal], dim=1)

    def _right(self, state: Tensor) -> Tensor:
        if not self._walls.sides:
            return state.reshape(-1, self.grid.n_local)
        device = self.solver.device_for(self.operator, state.device)
        numbers = [side.to(device) for side in self._walls.numbers()]
        right = self._with_sides(in_double(state, device), numbers)
        return right.reshape(-1, self.grid.n_local)

    def _with_sides(self, state: Tensor, sides: list[Tensor]) -> Tensor:
        """The right-hand side: the state plus the contributions of the sides in a step."""
        if not self._walls.sides:
            return state
        added = [
            side.spread(self._walls.contribution(side, numbers, self.viscosity))
            for side, numbers in zip(self._walls.sides, sides, strict=True)
        ]
        return state + self.dt * torch.stack(added).sum(dim=0)

    @cached_property
    def jacobian(self) -> ColouredJacobian:
        """The matrix of Newton's method for all components; made on first use, which is
        collective.
        """
        return ColouredJacobian.on_grid(self.grid, channels=self.grid.dim)

    def residual(self, u: Tensor, old: Tensor, sides: list[Tensor]) -> Tensor:
        """Return `F = A(u) u − u_old`, less the contributions of the sides, of velocities.

        The shape is `(b, dim, *local_shape)`. Differentiable, collective.
        """
        dim = self.grid.dim
        padded = self.grid.halo(u)
        shifts = [{axis: step} for axis in range(dim) for step in (-1, 1)]
        entries = self._entries(u, sides).unsqueeze(2)
        product = sum(
            entries[:, position] * neighbour(padded, dim, shift)
            for position, shift in enumerate([*shifts, {}])
        )
        return product - self._with_sides(in_double(old, u.device), sides)

    def _step(self, state: Tensor) -> Tensor:
        if not isinstance(self.solver, NonlinearSolver):
            return super()._step(state)
        return solve_nonlinear(
            self.residual,
            state,
            (state, self._walls.numbers()),
            self.solver,
            jacobian=self.jacobian,
            grid=self.grid,
            per_sample=(True, False),
        )


def _line(dim: int, axis: int) -> Any:
    """From a field with one halo layer, the points with neighbours along one axis only."""
    return (Ellipsis, *(slice(None) if other == axis else slice(1, -1) for other in range(dim)))
