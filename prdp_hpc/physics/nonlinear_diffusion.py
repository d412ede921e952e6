"""Diffusion whose coefficient depends on the solution, one implicit step per call."""

from __future__ import annotations

import math
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
    Refinement,
    Solver,
    solve_nonlinear,
)
from prdp_hpc.physics.boundaries import Boundaries, boundaries_of
from prdp_hpc.physics.face_fluxes import SideNumbers
from prdp_hpc.physics.initial_conditions import normalised_fourier
from prdp_hpc.physics.newton import NewtonStepper, newton_solver, replicated
from prdp_hpc.physics.real_numbers import as_float, not_constant, not_one_number

LAWS = ("quadratic", "power")


class NonlinearDiffusion(NewtonStepper):
    """Nonlinear diffusion `u_t = ∇·(κ(u) ∇u) + f`, one implicit step per call.

    With `law="quadratic"`, `κ(u) = κ₀ (1 + β u²)`, e.g. a conductivity that increases with
    temperature; with `law="power"`, `κ(u) = κ₀ |u|^β`, the porous medium equation, whose fronts
    have a finite speed. Backward Euler in time, central differences with the mean κ at each face:
    Newton's method solves

        F(u⁺) = u⁺ − u − dt ∇_h·(κ(u⁺) ∇_h u⁺) − dt f = 0

    starting at u. The Jacobian is not symmetric; it is assembled by colouring. First order in dt;
    second in h where κ is smooth. `steady` solves `−∇·(κ(u) ∇u) = f`.

    Parameters
    ----------
    grid : Grid
        The grid of u.
    diffusivity : float or Tensor
        The factor κ₀ > 0 in length² / time ("power": per unit of u^β): a number, or a replicated
        tensor of shape `()`, which may require a gradient.
    dt : float or Tensor
        Time step, > 0: a number, or a replicated tensor of shape `()`, which may require a
        gradient.
    solver : NonlinearSolver
        Newton's method and its linear solver.
    law : {"quadratic", "power"}, default "quadratic"
        The dependence of κ on u.
    exponent : float, default 1.0
        The exponent β ≥ 0; for "power" β ≥ 1.
    boundaries : sequence of tuple, optional
        Per axis a pair of conditions at its low and its high end, see
        `prdp_hpc.physics.boundaries`, with κ = κ(u). Default: those of the grid.

    Raises
    ------
    InputError
        For a number out of range, or another kind of solver.

    Notes
    -----
    Source: Vázquez, The Porous Medium Equation (2007).

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import Grid, NonlinearDiffusion, NonlinearSolver, Solver
    >>> solver = NonlinearSolver(Solver("gmres", "ilu"))
    >>> stepper = NonlinearDiffusion(Grid((16,)), diffusivity=1.0, dt=0.01, solver=solver)
    >>> u = torch.ones(2, 1, 16).double()
    >>> bool((stepper(u) < u).all())
    True
    """

    scheme = "backward Euler, central differences, Newton to rtol 1e-10"

    def __init__(
        self,
        grid: Grid,
        diffusivity: float | Tensor,
        dt: float | Tensor,
        solver: NonlinearSolver,
        law: str = "quadratic",
        exponent: float = 1.0,
        boundaries: Boundaries | None = None,
    ) -> None:
        raise_together(grid.comm, _validate(law, exponent))
        self.diffusivity, self.law, self.exponent = diffusivity, law, float(exponent)
        super().__init__(grid, dt, solver, boundaries)

    @classmethod
    def from_config(cls, section: Any, grid: Grid, solver: Any) -> NonlinearDiffusion:
        """Make the stepper of a config's section `physics`; collective.

        Its keys are `diffusivity`, `dt`, `law`, `exponent`, `boundaries` and `newton`.
        """
        return cls(
            grid,
            section.diffusivity,
            section.dt,
            newton_solver(solver, section.newton),
            section.law,
            section.exponent,
            boundaries_of(section.boundaries, grid.dim),
        )

    def validate_numbers(self) -> InputError | None:
        """The error for an invalid number, which may have been changed in place, or None."""
        return super().validate_numbers() or _validate_diffusivity(self.diffusivity)

    @staticmethod
    def reference_solver() -> NonlinearSolver:
        """Return a solver for reference solutions."""
        return NonlinearSolver(Solver("gmres", "bjacobi"), Refinement(rtol=1e-10), inner=1e-6)

    def attributes(self) -> dict[str, float]:
        """Return the numbers that data files must agree with.

        They are `dt`, `diffusivity`, `exponent` and the numbers on the sides.
        """
        numbers = {"diffusivity": float(self.diffusivity), "exponent": self.exponent}
        return {**super().attributes(), **numbers}

    def initial_states(self, generator: np.random.Generator, count: int, modes: int) -> Tensor:
        """Return squares of random Fourier series, between 0 and 1, this rank's part; collective.

        Parameters
        ----------
        generator : numpy.random.Generator
            A generator in the same state on all ranks.
        count : int
            Number of states.
        modes : int
            Number of Fourier modes.

        Returns
        -------
        Tensor
            States, float64, shape `(count, 1, *local_shape)`.
        """
        whole = normalised_fourier(generator, count, 1, self.grid.unit_axes(), modes) ** 2
        return self.grid.scatter(torch.from_numpy(whole))

    def conductivity(self, u: Tensor, diffusivity: float | Tensor) -> Tensor:
        """Return `κ(u)` for κ₀, pointwise."""
        if self.law == "quadratic":
            return diffusivity * (1.0 + self.exponent * u**2)
        return diffusivity * u.abs() ** self.exponent

    def residual(
        self,
        u: Tensor,
        old: Tensor,
        dt: Tensor,
        diffusivity: Tensor,
        source: Any,
        sides: SideNumbers,
    ) -> Tensor:
        """Return F of fields `(b, 1, *local_shape)`; differentiable, collective."""
        flux = -self.steady_residual(u, diffusivity, None, sides)
        return u - old - dt * flux - (0.0 if source is None else dt * source)

    def steady_residual(
        self, u: Tensor, diffusivity: Tensor, source: Any, sides: SideNumbers
    ) -> Tensor:
        """Return `−∇·(κ(u) ∇u) − f` of fields `(b, 1, *local_shape)`.

        Differentiable, collective.
        """
        flux = self.fluxes.divergence(u, lambda v: self.conductivity(v, diffusivity), sides)
        return -flux - (0.0 if source is None else source)

    @cached_property
    def jacobian(self) -> ColouredJacobian:
        """The matrix of the linear systems; it is made on first use, which is collective."""
        return ColouredJacobian.on_grid(self.grid)

    def __call__(self, u: Tensor, source: Tensor | None = None) -> Tensor:
        """Return the state one step later.

        Differentiable in u, f, κ₀ and dt; collective.

        Parameters
        ----------
        u : Tensor
            The state, shape `(B, C, *local_shape)`; channels do not interact.
        source : Tensor, optional
            The source f at the new time, this rank's field of shape `local_shape`.

        Returns
        -------
        Tensor
            The state, of the shape of u.
        """
        return self._step(u, (replicated(self.grid, self.diffusivity), source))

    def steady(self, source: Tensor, start: Tensor | None = None) -> Tensor:
        """Return the solution of `−∇·(κ(u) ∇u) = f`.

        Differentiable in f and κ₀; collective.

        Parameters
        ----------
        source : Tensor
            The source f, this rank's fields of shape `(B, 1, *local_shape)`.
        start : Tensor, optional
            Where Newton's method starts, of the shape of f. Default: 0 ("power": 1, because κ(0) =
            0).

        Returns
        -------
        Tensor
            The solution, of the shape of f.

        Raises
        ------
        InputError
            If no side has a Dirichlet or Robin condition, because there is no unique solution then.
        """
        error = None
        if self.fluxes.conditions.constants == "free":
            error = InputError(
                "a steady state needs a Dirichlet or Robin condition on a side: without one, it is "
                "determined only up to a constant"
            )
        raise_together(self.grid.comm, error)
        first = torch.zeros_like(source) if self.law == "quadratic" else torch.ones_like(source)
        return solve_nonlinear(
            self.steady_residual,
            first if start is None else start,
            (replicated(self.grid, self.diffusivity), source, self.side_numbers()),
            self.solver,
            jacobian=self.jacobian,
            grid=self.grid,
            per_sample=(False, True, False),
        )


def _validate(law: str, exponent: float) -> InputError | None:
    if law not in LAWS:
        return InputError(f"law must be one of {', '.join(LAWS)}, not {law!r}")
    error = not_constant("exponent", exponent)
    if error is not None:
        return error
    least = 1.0 if law == "power" else 0.0
    if not least <= exponent < math.inf:
        return InputError(
            f"exponent must be at least {least:g} for law={law!r}, and finite, not {exponent!r}"
        )
    return None


def _validate_diffusivity(diffusivity: float | Tensor) -> InputError | None:
    error = not_one_number("diffusivity", diffusivity)
    if error is None and not 0 < as_float(diffusivity) < math.inf:
        error = InputError(f"diffusivity must be positive and finite, not {diffusivity!r}")
    return error
