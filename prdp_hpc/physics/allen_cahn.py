"""The Allen–Cahn equation, one implicit step per call."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.distributed.communicators import private
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import NonlinearSolver, Refinement, Solver
from prdp_hpc.linalg.nonlinear.solve import GivenJacobian
from prdp_hpc.physics.boundaries import Boundaries, Robin, boundaries_of
from prdp_hpc.physics.diffusion_stencil import DiffusionStencil
from prdp_hpc.physics.face_fluxes import SideNumbers
from prdp_hpc.physics.newton import NewtonStepper, newton_solver, replicated
from prdp_hpc.physics.real_numbers import as_float, not_one_number


class AllenCahn(NewtonStepper):
    """The Allen–Cahn equation `u_t = ε² Δu + u − u³`, one implicit step per call.

    It models two phases, u = ±1, that are separated by interfaces of width ε. Backward Euler in
    time, central differences in space: Newton's method solves

        F(u⁺) = u⁺ − u − dt (ε² Δ_h u⁺ + u⁺ − u⁺³) = 0

    starting at u, with the Jacobian `I − dt ε² Δ_h − dt (1 − 3 u²)`, which is symmetric and, for dt
    < 1, positive definite, so `ksp="cg"` can be used. First order in dt, second in h. For dt < 1
    the step has one solution, and the energy `∫ ε²/2 |∇u|² + (u² − 1)²/4` never increases. The grid
    should resolve the interface: h ≤ ε.

    Parameters
    ----------
    grid : Grid
        The grid of u.
    interface : float or Tensor
        The width ε > 0 in units of length: a number, or a replicated tensor of shape `()`, which
        may require a gradient.
    dt : float or Tensor
        Time step in units of the reaction's time, 0 < dt < 1: a number, or a replicated tensor of
        shape `()`, which may require a gradient.
    solver : NonlinearSolver
        Newton's method and its linear solver.
    boundaries : sequence of tuple, optional
        Per axis a pair of conditions at its low and its high end, see
        `prdp_hpc.physics.boundaries`, with κ = ε². Default: those of the grid.

    Raises
    ------
    InputError
        For a number out of range, or another kind of solver.

    Notes
    -----
    Source: Allen and Cahn, A microscopic theory for antiphase boundary motion (1979).

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import AllenCahn, Grid, NonlinearSolver, Solver
    >>> grid = Grid((32,), boundary="neumann")
    >>> stepper = AllenCahn(grid, 0.1, 0.1, NonlinearSolver(Solver("cg", "jacobi")))
    >>> u = 0.5 * torch.sin(9.0 * grid.coordinates()[0])[None, None]
    >>> bool(stepper.energy(stepper(u)) < stepper.energy(u))
    True
    """

    scheme = "backward Euler, central differences, Newton to rtol 1e-10"

    def __init__(
        self,
        grid: Grid,
        interface: float | Tensor,
        dt: float | Tensor,
        solver: NonlinearSolver,
        boundaries: Boundaries | None = None,
    ) -> None:
        self.interface = interface
        super().__init__(grid, dt, solver, boundaries)

    @classmethod
    def from_config(cls, section: Any, grid: Grid, solver: Any) -> AllenCahn:
        """Make the stepper of a config's section `physics`; collective.

        Its keys are `interface`, `dt`, `boundaries` and `newton`.
        """
        solver = newton_solver(solver, section.newton)
        sides = boundaries_of(section.boundaries, grid.dim)
        return cls(grid, section.interface, section.dt, solver, sides)

    def validate_numbers(self) -> InputError | None:
        """The error for an invalid number, which may have been changed in place, or None."""
        error = super().validate_numbers() or not_one_number("interface", self.interface)
        if error is None and not as_float(self.dt) < 1:
            error = InputError(
                f"dt must be less than 1, so that a step has one solution, not {self.dt!r}"
            )
        if error is None and not as_float(self.interface) > 0:
            error = InputError(
                f"the width of an interface must be positive, not {self.interface!r}"
            )
        return error

    @staticmethod
    def reference_solver() -> NonlinearSolver:
        """Return a solver for reference solutions."""
        return NonlinearSolver(Solver("cg", "jacobi"), Refinement(rtol=1e-10), inner=1e-6)

    def attributes(self) -> dict[str, float]:
        """Return `dt`, `interface` and the numbers on the sides, for data files."""
        return {**super().attributes(), "interface": float(self.interface)}

    def residual(
        self, u: Tensor, old: Tensor, dt: Tensor, squared_interface: Tensor, sides: SideNumbers
    ) -> Tensor:
        """Return F of fields `(b, 1, *local_shape)`; differentiable, collective."""
        diffusion = self.fluxes.divergence(u, squared_interface.expand_as, sides)
        return u - old - dt * (diffusion + u - u**3)

    @cached_property
    def jacobian(self) -> GivenJacobian:
        """The operator of the linear systems, and its values at u."""
        stencil = DiffusionStencil(self.grid, False, self.fluxes.conditions)
        robin = [isinstance(side.condition, Robin) for side in self.fluxes.conditions.sides]
        no_flux = [torch.zeros((), dtype=torch.float64)] * sum(robin)
        zero = torch.zeros((), dtype=torch.float64)
        is_diagonal = stencil.values(zero + 1.0, 1.0, 0.0, no_flux) != 0.0

        def values(
            u: Tensor, old: Tensor, dt: Tensor, squared_interface: Tensor, sides: SideNumbers
        ) -> Tensor:
            coefficients = [own[1] for own, is_robin in zip(sides, robin, strict=True) if is_robin]
            found = stencil.values(squared_interface, 1.0, dt, coefficients).clone()
            found[is_diagonal] += dt * (3.0 * u.reshape(-1) ** 2 - 1.0)
            return found

        return stencil.operator, values

    def energy(self, u: Tensor) -> Tensor:
        """Return the energy `∫ ε²/2 |∇u|² + (u² − 1)²/4` of each field, over the whole grid.

        It is valid for sides with the value 0 or without flux. Without a gradient; collective.

        Parameters
        ----------
        u : Tensor
            Fields, shape `(..., *local_shape)`.

        Returns
        -------
        Tensor
            Energies, shape `(...)`.
        """
        with torch.no_grad():
            flat = self.fluxes.divergence(u, torch.ones_like, self.side_numbers())
            gradient = -0.5 * u * flat
            density = float(self.interface) ** 2 * gradient + 0.25 * (u**2 - 1.0) ** 2
            total = density.flatten(-self.grid.dim).sum(-1).contiguous()
        private(self.grid.comm).sums.Allreduce(MPI.IN_PLACE, total.numpy())
        volume = 1.0
        for h in self.grid.spacing:
            volume *= h
        return total * volume

    def __call__(self, u: Tensor) -> Tensor:
        """Return the state one step later.

        Differentiable in u, ε and dt; collective.

        Parameters
        ----------
        u : Tensor
            The state, shape `(B, C, *local_shape)`; channels do not interact.

        Returns
        -------
        Tensor
            The state, of the shape of u.
        """
        return self._step(u, (replicated(self.grid, self.interface) ** 2,))
