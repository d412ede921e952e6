"""The incompressible Navier–Stokes equations, one implicit step a call."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from prdp_hpc.collective import raise_together
from prdp_hpc.grid import Grid
from prdp_hpc.linalg import Refinement, Solver, solve
from prdp_hpc.physics.poisson import Poisson
from prdp_hpc.physics.staggered import StaggeredOperator, StaggeredSystem

CHANNELS = ("velocity_x", "velocity_y", "velocity_z")


class NavierStokes:
    """`u_t + (w·∇)u = −∇p + ν Δu`, `∇·u = 0`, in 2-D or 3-D on a periodic staggered grid; density 1.

    Backward Euler, first-order upwind, velocity and pressure coupled: each Picard iteration solves one linear system

        `(1/dt + w·∇_h − ν Δ_h) u⁺ + ∇_h p⁺ = u / dt`,  `∇_h·u⁺ = 0`

    with the wind w of the iteration before (at first u itself). First order in `dt` and `h`; stable for every `dt`. The
    pressure has mean 0.

    Parameters
    ----------
    grid : periodic, 2-D or 3-D.
    viscosity : ν ≥ 0 in length² / time.
    dt : time step, > 0.
    solver : solves the coupled systems. `pc="constraint"` (momentum by Jacobi, then a projection) converges in tens of
        iterations; `pc="fieldsplit"` finds the fields "velocity" and "pressure".
    picard_iterations : linear systems a step; default 1.
    gradient : "full" (default): through the matrices and the right-hand side; "reduced": the matrices are taken as constant.

    Raises
    ------
    ValueError
        For another grid, a negative viscosity, dt ≤ 0, or an unknown gradient.

    Source: paper, section on the Navier–Stokes corrector; the staggering is that of the authors' code.
    """

    def __init__(
        self,
        grid: Grid,
        viscosity: float,
        dt: float,
        solver: Solver,
        picard_iterations: int = 1,
        gradient: Literal["full", "reduced"] = "full",
    ) -> None:
        raise_together(grid.comm, _wrong(viscosity, dt, picard_iterations, gradient))
        self.grid, self.solver = grid, solver
        self.viscosity, self.dt = float(viscosity), float(dt)
        self.picard_iterations, self.gradient = picard_iterations, gradient
        self._system = StaggeredSystem(grid, self.viscosity, self.dt)

    @property
    def channels(self) -> tuple[str, ...]:
        """What the channels of a state are."""
        return (*CHANNELS[: self.grid.dim], "pressure")

    @property
    def operator(self) -> StaggeredOperator:
        """The matrix of one solve."""
        return self._system.operator

    def __call__(self, state: Tensor) -> Tensor:
        """The state one step later.

        `state`: `(B, dim + 1, *local_shape)`, velocity_x (along the last axis), velocity_y, (velocity_z,) pressure; the
        pressure that comes in has no influence. Differentiable; collective.
        """
        raise_together(self.grid.comm, self._wrong_state(state))
        dim = self.grid.dim
        velocity = state[:, :dim]
        right = torch.cat([velocity / self.dt, torch.zeros_like(state[:, dim:])], dim=1).flatten(1)
        wind = velocity
        for _ in range(self.picard_iterations):
            values = self._system.values(wind.detach() if self.gradient == "reduced" else wind)
            result = solve(self.operator, values, right, self.solver).reshape(state.shape)
            wind = result[:, :dim]
        return result

    def divergence_free(self, state: Tensor) -> Tensor:
        """The state with its velocity projected: `u − ∇_h q` with `Δ_h q = ∇_h·u`, and q as the pressure. Collective."""
        raise_together(self.grid.comm, self._wrong_state(state))
        dim = self.grid.dim
        poisson = Poisson(self.grid, Solver("cg", "jacobi", Refinement(rtol=1e-12)))
        potential = poisson(-self.divergence(state))
        after = self.grid.halo(potential)
        inner = (Ellipsis, *(slice(1, -1) for _ in range(dim)))
        gradients = [
            (torch.roll(after, -1, self._roll_axis(c))[inner] - potential) / self.grid.spacing[self._system.axis(c)]
            for c in range(dim)
        ]
        return torch.cat([state[:, :dim] - torch.stack(gradients, dim=1), potential.unsqueeze(1)], dim=1)

    def divergence(self, state: Tensor) -> Tensor:
        """`∇_h·u` at the pressure's points, `(B, *local_shape)`; collective."""
        dim = self.grid.dim
        padded = self.grid.halo(state[:, :dim])
        inner = (Ellipsis, *(slice(1, -1) for _ in range(dim)))
        parts = [
            (state[:, c] - torch.roll(padded[:, c], 1, self._roll_axis(c))[inner]) / self.grid.spacing[self._system.axis(c)]
            for c in range(dim)
        ]
        return sum(parts[1:], parts[0])

    def _roll_axis(self, component: int) -> int:
        return self._system.axis(component) - self.grid.dim

    def _wrong_state(self, state: Tensor) -> ValueError | None:
        expected = (self.grid.dim + 1, *self.grid.local_shape)
        if state.dim() != self.grid.dim + 2 or tuple(state.shape[1:]) != expected:
            return ValueError(f"a state on this rank must have shape (B, {', '.join(map(str, expected))}), not {tuple(state.shape)}")
        return None


def _wrong(viscosity: float, dt: float, picard_iterations: int, gradient: str) -> ValueError | None:
    if not 0 <= viscosity < math.inf:
        return ValueError(f"the viscosity must not be negative, and finite, not {viscosity!r}")
    if not 0 < dt < math.inf:
        return ValueError(f"the time step dt must be positive and finite, not {dt!r}")
    if isinstance(picard_iterations, bool) or not isinstance(picard_iterations, int) or picard_iterations < 1:
        return ValueError(f"picard_iterations must be a whole number of at least 1, not {picard_iterations!r}")
    if gradient not in ("full", "reduced"):
        return ValueError(f"gradient must be 'full' or 'reduced', not {gradient!r}")
    return None
