"""The Poisson equation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Refinement, Solver
from prdp_hpc.physics.diffusion import DiffusionStepper


class Poisson(DiffusionStepper):
    """`−∇·(κ ∇u) = f`, central differences of second order.

    Without a Dirichlet axis the solution is fixed up to a constant: the mean of `f` is removed and
    the solution with mean 0 is found (constants are given to PETSc as the matrix's nullspace).

    Parameters
    ----------
    grid : where `u` and `f` live.
    solver : solves the system.
    diffusivity : κ > 0: a number, a replicated tensor of shape `()`, or this
        rank's field of shape `local_shape`; tensors may require a gradient. Default 1.

    Raises
    ------
    ValueError
        If κ is not positive or of a wrong shape.

    Source: paper, section on the Poisson inverse problem.
    """

    def __init__(self, grid: Grid, solver: Solver, diffusivity: float | Tensor = 1.0) -> None:
        super().__init__(
            grid, diffusivity, solver, mass=0.0, scale=1.0, constant_nullspace=grid.is_singular
        )

    @classmethod
    def from_config(cls, section: Any, grid: Grid, solver: Solver) -> Poisson:
        """The solve of a section `physics` with `diffusivity`; collective."""
        return cls(grid, solver, section.diffusivity)

    @staticmethod
    def reference_solver() -> Solver:
        """A solver for reference solutions."""
        return Solver("cg", "jacobi", Refinement(rtol=1e-12))

    def __call__(self, source: Tensor) -> Tensor:
        """`u` for a source `f` of shape `(B, C, *local_shape)` (any leading axes will do).

        Differentiable in `f` and κ; collective.
        """
        return self._solve(source)
