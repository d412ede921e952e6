"""The Poisson equation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Refinement, Solver
from prdp_hpc.physics.boundaries import Boundaries, boundaries_of
from prdp_hpc.physics.diffusion import DiffusionStepper
from prdp_hpc.physics.diffusion_stencil import FaceMean


class Poisson(DiffusionStepper):
    """The Poisson equation `−∇·(κ ∇u) = f` with a condition on each side.

    Central differences of second order. If no side has a Dirichlet or Robin condition, the solution
    is determined up to a constant and exists only if sources and fluxes balance, `∫ f + ∮ q = 0`:
    the imbalance is subtracted from `f` uniformly, and the solution with mean 0 is returned
    (constants are PETSc's nullspace of the matrix).

    Parameters
    ----------
    grid : Grid
        The grid of u and f.
    solver : Solver
        Solver of the system.
    diffusivity : float or Tensor, default 1.0
        The diffusivity κ > 0: a number, a replicated tensor of shape `()`, this rank's field of
        shape `local_shape`, or `(M, *local_shape)` with one field per sample. Tensors may require a
        gradient.
    boundaries : sequence of tuple, optional
        Per axis a pair of conditions at its low and its high end, see
        `prdp_hpc.physics.boundaries`. Default: those of the grid.
    face_mean : {"arithmetic", "harmonic"}, default "arithmetic"
        The mean of κ between two points; "harmonic" gives the exact flux if κ is discontinuous at
        the face, e.g. between layers.

    Raises
    ------
    InputError
        If κ is not positive or has another shape, or for conditions that the grid does not allow.

    Notes
    -----
    Source: PRDP (Bhatia, Koehler and Thuerey, ICLR 2025), section on the Poisson inverse problem.

    Examples
    --------
    A pressure of 1 on the left of two layers, and 0 on the right; all other sides are walls:

    >>> import torch
    >>> from prdp_hpc import Dirichlet, Grid, Poisson, Solver
    >>> grid = Grid((4, 8), boundary="neumann")  # cell centres
    >>> sides = [None, (Dirichlet(1.0), Dirichlet(0.0))]
    >>> kappa = torch.where(grid.coordinates()[1] < 0.5, 1.0, 3.0).double()
    >>> poisson = Poisson(grid, Solver("cg", "jacobi", 1e-10), kappa, sides, face_mean="harmonic")
    >>> pressure = poisson(torch.zeros(1, 1, *grid.local_shape).double())
    >>> (32 * pressure[0, 0, 0]).round()
    tensor([29., 23., 17., 11.,  7.,  5.,  3.,  1.], dtype=torch.float64)
    """

    def __init__(
        self,
        grid: Grid,
        solver: Solver,
        diffusivity: float | Tensor = 1.0,
        boundaries: Boundaries | None = None,
        face_mean: FaceMean = "arithmetic",
    ) -> None:
        super().__init__(grid, diffusivity, solver, 0.0, boundaries, face_mean)

    @classmethod
    def from_config(cls, section: Any, grid: Grid, solver: Solver) -> Poisson:
        """Make the solve of a config's section `physics`; collective.

        Its keys are `diffusivity`, `boundaries` and `face_mean`.
        """
        sides = boundaries_of(section.boundaries, grid.dim)
        return cls(grid, solver, section.diffusivity, sides, section.face_mean)

    @staticmethod
    def reference_solver() -> Solver:
        """Return a solver for reference solutions."""
        return Solver("cg", "gamg", Refinement(rtol=1e-12))

    def __call__(self, source: Tensor) -> Tensor:
        """Return `u` for a source `f`.

        Differentiable in `f`, κ and the values on the sides; collective. Leading axes of values on
        the sides broadcast with those of `f`.

        Parameters
        ----------
        source : Tensor
            The source f, shape `(B, C, *local_shape)` with any leading axes.

        Returns
        -------
        Tensor
            The solution u, of the shape of f.
        """
        return self._solve(source)
