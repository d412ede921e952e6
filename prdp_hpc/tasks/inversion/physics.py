"""The PDE of a field inversion, as a map from a coefficient and sources to solutions."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from prdp_hpc.errors import InputError, check_members
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Solver
from prdp_hpc.physics.boundaries import Boundaries
from prdp_hpc.tasks.inversion.experiments import Sides


class CoefficientPDE(Protocol):
    """Interface of the map from a coefficient field κ and sources of E experiments to solutions.

    `physics(kappa, sources)`, with κ of shape `local_shape` and sources of shape
    `(E, *local_shape)`, returns the solutions `(E, *local_shape)`; float64, differentiable in κ,
    collective. In amortised inversion κ has the shape `(M, *local_shape)`, and each of its M fields
    belongs to E/M sources. If experiments also differ in their boundary values, these are the third
    argument, see `Sides`.

    Attributes
    ----------
    grid : the grid of the fields.
    solver : the solver of all solves, which the schedule refines.
    """

    @property
    def grid(self) -> Grid:
        """The grid of the fields."""
        ...

    @property
    def solver(self) -> Solver:
        """The solver that the schedule refines."""
        ...

    def __call__(self, kappa: Tensor, sources: Tensor, /) -> Tensor:
        """Compute the solutions."""
        ...


class Conductivity:
    """The map from a coefficient κ and sources f to the solution of `−∇·(κ ∇u) = f`.

    It describes e.g. Darcy flow and heat or electric conduction. Called with κ of shape
    `local_shape`, sources of shape `(E, *local_shape)` and optionally boundary values, it returns
    the solutions of shape `(E, *local_shape)`, differentiable in κ; collective.

    Parameters
    ----------
    poisson : Poisson
        The PDE, or another stepper with a settable `diffusivity`, and settable `boundaries` if
        experiments differ in their boundary values. This object changes both.

    Attributes
    ----------
    grid : Grid
        The grid of the fields.
    solver : Solver
        The solver of all solves.

    Raises
    ------
    InputError
        On a call with boundary values for a side without a boundary condition.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import Conductivity, Grid, Poisson, Solver
    >>> physics = Conductivity(Poisson(Grid((3,)), Solver("cg", "jacobi", 1e-12)))
    >>> kappa = torch.full((3,), 2.0, dtype=torch.float64, requires_grad=True)
    >>> physics(kappa, torch.ones(1, 3, dtype=torch.float64))
    tensor([[0.0469, 0.0625, 0.0469]], dtype=torch.float64, ...)
    """

    def __init__(self, poisson: Any) -> None:
        needed = ("__call__", "grid", "solver", "diffusivity")
        check_members(
            "Conductivity: poisson", poisson, needed, "a Poisson, or a PDE with a diffusivity"
        )
        self._poisson = poisson
        self.grid: Grid = poisson.grid
        self.solver: Solver = poisson.solver
        self._sides: Sides | None = None

    def __call__(self, kappa: Tensor, sources: Tensor, sides: Sides | None = None) -> Tensor:
        """Compute the solutions `(E, *local_shape)`; collective."""
        if sides and sides is not self._sides:
            self._set_sides(sides)
        self._poisson.diffusivity = kappa
        found: Tensor = self._poisson(sources)
        return found

    def _set_sides(self, sides: Sides) -> None:
        """Replace the values of the boundary conditions; collective."""
        pairs = [list(pair) for pair in self._poisson.boundaries]
        for (axis, end), values in sides.items():
            which = 0 if end == "low" else 1
            condition = pairs[axis][which]
            if condition is None:
                raise InputError(
                    f"experiments: the {end} side of axis {axis} has no boundary condition, since "
                    "the axis is periodic: leave out its values"
                )
            last = list(vars(condition))[-1]
            pairs[axis][which] = type(condition)(**{**vars(condition), last: values})
        self._poisson.boundaries = [tuple(pair) for pair in pairs]
        self._sides = sides

    @property
    def boundaries(self) -> Boundaries:
        """The conditions on the sides, per axis (low, high); empty if the PDE has none."""
        found: Boundaries = getattr(self._poisson, "boundaries", [])
        return found


def coefficient_pde(stepper: Any) -> CoefficientPDE:
    """The PDE of a config for an inversion: a `Conductivity` of a stepper with a settable
    `diffusivity`, or a user-defined `CoefficientPDE` unchanged.
    """
    if hasattr(type(stepper), "diffusivity") or hasattr(stepper, "diffusivity"):
        return Conductivity(stepper)
    return stepper  # type: ignore[no-any-return]
