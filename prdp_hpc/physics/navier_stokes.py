"""The incompressible Navier–Stokes equations, one implicit step a call."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Refinement, Solver
from prdp_hpc.physics.heat import Heat
from prdp_hpc.physics.picard import VELOCITIES, Gradient, PicardStepper
from prdp_hpc.physics.poisson import Poisson
from prdp_hpc.physics.shifts import neighbour
from prdp_hpc.physics.staggered import StaggeredOperator, StaggeredSystem

SMOOTHING = 3e-3
"""ν dt of the heat step that smooths the noise of initial states, in length²."""


class NavierStokes(PicardStepper):
    """`u_t + (w·∇)u = −∇p + ν Δu`, `∇·u = 0`, in 2-D or 3-D on a periodic staggered grid; density
    1.

    Backward Euler, first-order upwind, velocity and pressure coupled: each Picard iteration solves
    one linear system

        `(1/dt + w·∇_h − ν Δ_h) u⁺ + ∇_h p⁺ = u / dt`,  `∇_h·u⁺ = 0`

    with the wind w of the iteration before (at first u itself). First order in `dt` and `h`; stable
    for every `dt`. The pressure has mean 0.

    Parameters
    ----------
    grid : periodic, 2-D or 3-D.
    viscosity : ν ≥ 0 in length² / time.
    dt : time step, > 0.
    solver : solves the coupled systems. `pc="constraint"` (momentum by Jacobi, then a projection)
        converges in tens of iterations; `pc="fieldsplit"` finds the fields "velocity" and
        "pressure".
    picard_iterations : linear systems a step; default 1.
    gradient : "full" (default): through the matrices and the right-hand side; "reduced": the
        matrices are taken as constant.

    Raises
    ------
    ValueError
        For another grid, a negative viscosity, dt ≤ 0, or an unknown gradient.

    Source: paper, section on the Navier–Stokes corrector; the staggering is that of the authors'
    code.
    """

    reference_pc: ClassVar[str] = "constraint"

    def __init__(
        self,
        grid: Grid,
        viscosity: float,
        dt: float,
        solver: Solver,
        picard_iterations: int = 1,
        gradient: Gradient = "full",
    ) -> None:
        super().__init__(grid, viscosity, dt, solver, picard_iterations, gradient)
        self._system = StaggeredSystem(grid, self.viscosity, self.dt)

    @property
    def channels(self) -> tuple[str, ...]:
        """velocity_x (along the last axis), velocity_y, (velocity_z,) pressure; a pressure that
        comes in has no influence.
        """
        return (*VELOCITIES[: self.grid.dim], "pressure")

    @property
    def operator(self) -> StaggeredOperator:
        """The coupled matrix of one sample."""
        return self._system.operator

    def values(self, wind: Tensor) -> Tensor:
        """The matrices' values `(B, nnz_local)` for winds `(B, dim, *local_shape)`; differentiable,
        collective.
        """
        return self._system.values(wind)

    def _right(self, state: Tensor) -> Tensor:
        velocity, pressure = state[:, : self.grid.dim], state[:, self.grid.dim :]
        return torch.cat([velocity / self.dt, torch.zeros_like(pressure)], dim=1).flatten(1)

    def initial_states(self, generator: np.random.Generator, count: int, modes: int) -> Tensor:
        """This rank's part of random flows `(count, C, *local_shape)`; collective.

        White noise smoothed by one backward Euler step of the heat equation (ν dt = 3e-3), each
        component brought to mean 0 and standard deviation 1, then made divergence-free; pressure 0.
        `modes` has no influence.

        Source: paper, appendix on the Navier–Stokes experiments.
        """
        grid = self.grid
        noise = torch.from_numpy(generator.standard_normal((count, grid.dim, *grid.shape)))
        smoothing = Heat(grid, SMOOTHING, 1.0, Heat.reference_solver())
        space = tuple(range(2, noise.dim()))
        with torch.no_grad():
            smooth = grid.gather(smoothing(grid.scatter(noise)))
            velocity = (smooth - smooth.mean(space, keepdim=True)) / smooth.std(
                space, keepdim=True, correction=0
            )
            state = torch.cat([velocity, torch.zeros_like(velocity[:, :1])], dim=1)
            flow = self.divergence_free(grid.scatter(state))
        flow[:, -1] = 0.0
        return flow

    def divergence_free(self, state: Tensor) -> Tensor:
        """The state with its velocity projected: `u − ∇_h q` with `Δ_h q = ∇_h·u`, and q as the
        pressure. Collective.
        """
        raise_together(self.grid.comm, self._wrong_state(state))
        dim = self.grid.dim
        poisson = Poisson(self.grid, Solver("cg", "jacobi", Refinement(rtol=1e-12)))
        potential = poisson(-self.divergence(state))
        padded = self.grid.halo(potential)
        gradients = [
            (neighbour(padded, dim, {axis: 1}) - potential) / self.grid.spacing[axis]
            for axis in reversed(range(dim))
        ]
        return torch.cat(
            [state[:, :dim] - torch.stack(gradients, dim=1), potential.unsqueeze(1)], dim=1
        )

    def divergence(self, state: Tensor) -> Tensor:
        """`∇_h·u` at the pressure's points, `(B, *local_shape)`; collective."""
        dim = self.grid.dim
        padded = self.grid.halo(state[:, :dim])
        parts = []
        for c in range(dim):
            axis = self._system.axis(c)
            parts.append(
                (state[:, c] - neighbour(padded[:, c], dim, {axis: -1})) / self.grid.spacing[axis]
            )
        return torch.stack(parts).sum(dim=0)
