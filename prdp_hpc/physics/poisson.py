"""The Poisson equation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Refinement, Solver
from prdp_hpc.physics.boundaries import Boundaries, boundaries_of
from prdp_hpc.physics.diffusion import DiffusionStepper, FaceMean


class Poisson(DiffusionStepper):
    """`−∇·(κ ∇u) = f` with a condition on each side, central differences of second order.

    Where no side has a Dirichlet or Robin condition the solution is fixed up to a constant, and
    exists only if sources and fluxes balance, `∫ f + ∮ q = 0`: what they leave over is taken from
    `f` evenly, and the solution with mean 0 is found (constants are given to PETSc as the matrix's
    nullspace).

    Parameters
    ----------
    grid : where `u` and `f` live.
    solver : solves the system.
    diffusivity : κ > 0: a number, a replicated tensor of shape `()`, or this
        rank's field of shape `local_shape`, or `(M, *local_shape)` with one for each sample;
        tensors may require a gradient. Default 1.
    boundaries : for each axis the conditions at its low and its high end, see
        `prdp_hpc.physics.boundaries`; default: as the grid says.
    face_mean : κ between two points: "arithmetic" (default), or "harmonic", which gives the exact
        flux where κ jumps at a face in between, as from layer to layer.

    Raises
    ------
    ValueError
        If κ is not positive or of a wrong shape, or for conditions that the grid cannot have.

    Example
    -------
    A pressure of 1 on the left of two layers, an outlet that resists on the right, and walls::

        grid = Grid((32, 64), boundary="neumann")  # cell centres
        sides = [(None, None), (Dirichlet(1.0), Robin(coefficient=2.0, value=0.0))]
        kappa = torch.where(grid.coordinates()[1] < 0.5, 1.0, 100.0)
        poisson = Poisson(grid, Solver("cg", "gamg"), kappa, sides, face_mean="harmonic")
        pressure = poisson(torch.zeros(1, 1, *grid.local_shape))

    Source: paper, section on the Poisson inverse problem.
    """

    def __init__(
        self,
        grid: Grid,
        solver: Solver,
        diffusivity: float | Tensor = 1.0,
        boundaries: Boundaries | None = None,
        face_mean: FaceMean = "arithmetic",
    ) -> None:
        super().__init__(grid, diffusivity, solver, 0.0, 1.0, boundaries, face_mean)

    @classmethod
    def from_config(cls, section: Any, grid: Grid, solver: Solver) -> Poisson:
        """The solve of a section `physics` with `diffusivity`, `boundaries` and `face_mean`;
        collective.
        """
        sides = boundaries_of(section.boundaries, grid.dim)
        return cls(grid, solver, section.diffusivity, sides, section.face_mean)

    @staticmethod
    def reference_solver() -> Solver:
        """A solver for reference solutions."""
        return Solver("cg", "jacobi", Refinement(rtol=1e-12))

    def __call__(self, source: Tensor) -> Tensor:
        """`u` for a source `f` of shape `(B, C, *local_shape)` (any leading axes will do).

        Differentiable in `f`, κ and what the sides say; collective. Leading axes of values on the
        sides broadcast with those of `f`.
        """
        return self._solve(source)
