"""The incompressible Navier–Stokes equations, one implicit step per call."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.grid.halo import neighbour
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Refinement, Solver
from prdp_hpc.physics.heat import Heat
from prdp_hpc.physics.picard import VELOCITIES, Gradient, PicardStepper
from prdp_hpc.physics.poisson import Poisson
from prdp_hpc.physics.staggered import StaggeredOperator, StaggeredSystem

SMOOTHING = 3e-3
"""ν dt of the heat step that smooths the noise of initial states, in length²."""


class NavierStokes(PicardStepper):
    """The incompressible Navier–Stokes equations on a periodic staggered grid, in 2-D or 3-D.

    The equations are `u_t + (w·∇)u = −∇p + ν Δu`, `∇·u = 0`, with density 1. Backward Euler,
    first-order upwind, velocity and pressure coupled: each Picard iteration solves one linear
    system

        (1/dt + w·∇_h − ν Δ_h) u⁺ + ∇_h p⁺ = u / dt,    ∇_h·u⁺ = 0

    with the wind w of the iteration before (initially u). First order in `dt` and `h`; stable for
    every `dt`. The pressure has mean 0. A state is `(B, dim + 1, *local_shape)`: the velocities,
    then the pressure.

    Parameters
    ----------
    grid : Grid
        A periodic grid, 2-D or 3-D.
    viscosity : float
        The viscosity ν ≥ 0 in length² / time.
    dt : float
        Time step, > 0.
    solver : Solver
        Solver of the coupled systems. `pc="constraint"` (momentum by Jacobi, then a projection)
        converges in tens of iterations; `pc="fieldsplit"` has the fields "velocity" and "pressure".
    picard_iterations : int, default 1
        Linear systems per step.
    gradient : {"full", "reduced"}, default "full"
        "full": through the matrices and the right-hand side; "reduced": the matrices are treated as
        constant.

    Raises
    ------
    InputError
        For another grid, a negative viscosity, dt ≤ 0, or an unknown gradient.

    Notes
    -----
    Source: PRDP (Bhatia, Koehler and Thuerey, ICLR 2025), section on the Navier–Stokes corrector;
    the staggering is that of the authors' code.

    Examples
    --------
    >>> import numpy as np
    >>> from prdp_hpc import Grid, NavierStokes, Solver
    >>> grid = Grid((8, 8), boundary="periodic")
    >>> stepper = NavierStokes(grid, 1e-2, 0.1, Solver("gmres", "constraint", 1e-8))
    >>> state = stepper.initial_states(np.random.default_rng(0), count=1, modes=1)
    >>> after = stepper(state)
    >>> after.shape
    torch.Size([1, 3, 8, 8])
    >>> bool(stepper.divergence(after).abs().max() < 1e-5)
    True
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
        """Names of the channels: the velocities, then the pressure.

        velocity_x is along the last axis. The pressure of an input state has no effect.
        """
        return (*VELOCITIES[: self.grid.dim], "pressure")

    @property
    def half_cells(self) -> dict[int, int]:
        """The velocities, each half a cell after the grid's points along its axis."""
        return {component: self.grid.dim - 1 - component for component in range(self.grid.dim)}

    @property
    def operator(self) -> StaggeredOperator:
        """The coupled matrix of one sample."""
        return self._system.operator

    def values(self, wind: Tensor) -> Tensor:
        """Return the values `(B, nnz_local)` of the matrices for winds `(B, dim, *local_shape)`.

        Differentiable, collective.
        """
        device = self.solver.device_for(self.operator, wind.device)
        return self._system.values(wind, device)

    def _right(self, state: Tensor) -> Tensor:
        velocity, pressure = state[:, : self.grid.dim], state[:, self.grid.dim :]
        return torch.cat([velocity / self.dt, torch.zeros_like(pressure)], dim=1).flatten(1)

    def initial_states(self, generator: np.random.Generator, count: int, modes: int) -> Tensor:
        """Return random divergence-free flows, this rank's part; collective.

        White noise is smoothed by one backward Euler step of the heat equation (ν dt = 3e-3), each
        component is scaled to mean 0 and standard deviation 1, and the velocity is made
        divergence-free; the pressure is 0. Source: PRDP, appendix on the Navier–Stokes experiments.

        Parameters
        ----------
        generator : numpy.random.Generator
            A generator in the same state on all ranks.
        count : int
            Number of states.
        modes : int
            Not used.

        Returns
        -------
        Tensor
            States, float64, shape `(count, dim + 1, *local_shape)`.
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
        """Return the state with its velocity projected: `u − ∇_h q` with `Δ_h q = ∇_h·u`.

        The pressure of the result is q. Collective.

        Parameters
        ----------
        state : Tensor
            The state, shape `(B, dim + 1, *local_shape)`.

        Returns
        -------
        Tensor
            The state, of the same shape.
        """
        raise_together(self.grid.comm, self._validate_state(state))
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
        """Return `∇_h·u` at the points of the pressure; collective.

        Parameters
        ----------
        state : Tensor
            The state, shape `(B, dim + 1, *local_shape)`.

        Returns
        -------
        Tensor
            The divergence, shape `(B, *local_shape)`.
        """
        dim = self.grid.dim
        padded = self.grid.halo(state[:, :dim])
        parts = []
        for c in range(dim):
            axis = self._system.axis(c)
            parts.append(
                (state[:, c] - neighbour(padded[:, c], dim, {axis: -1})) / self.grid.spacing[axis]
            )
        return torch.stack(parts).sum(dim=0)
