"""The PDE of a field inversion: from a coefficient and sources to solutions."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Solver
from prdp_hpc.tasks.inversion.experiments import Sides


class CoefficientPDE(Protocol):
    """From a coefficient field κ and the sources of E experiments to their solutions.

    Any callable with these attributes: `physics(kappa, sources)`, κ of shape `local_shape` (or `(M,
    *local_shape)`: one for each of M E/M sources, in amortised inversion), sources `(E,
    *local_shape)`, returns `(E, *local_shape)`; float64, differentiable in κ, collective. Where
    experiments differ in the values on their sides too, it is called with a third argument, see
    `Sides`.

    Attributes
    ----------
    grid : where the fields live.
    solver : the coordinator refines it; every solve goes through it.
    """

    @property
    def grid(self) -> Grid:
        """Where the fields live."""
        ...

    @property
    def solver(self) -> Solver:
        """The coordinator refines it."""
        ...

    def __call__(self, kappa: Tensor, sources: Tensor, /) -> Tensor:
        """The solutions."""
        ...


class Conductivity:
    """`−∇·(κ ∇u) = f` by a `Poisson` whose diffusivity is κ: Darcy flow, heat or electric
    conduction.

    Parameters
    ----------
    poisson : a `Poisson`, or another stepper with a settable `diffusivity`, and `boundaries` where
        experiments differ in them. It belongs to this object from now on.
    """

    def __init__(self, poisson: Any) -> None:
        self._poisson = poisson
        self.grid: Grid = poisson.grid
        self.solver: Solver = poisson.solver
        self._sides: Sides | None = None

    def __call__(self, kappa: Tensor, sources: Tensor, sides: Sides | None = None) -> Tensor:
        """The solutions `(E, *local_shape)`; collective."""
        if sides and sides is not self._sides:
            self._set_sides(sides)
        self._poisson.diffusivity = kappa
        found: Tensor = self._poisson(sources)
        return found

    def _set_sides(self, sides: Sides) -> None:
        """Conditions of the same kinds with other values; collective."""
        pairs = [list(pair) for pair in self._poisson.boundaries]
        for (axis, end), values in sides.items():
            which = 0 if end == "low" else 1
            condition = pairs[axis][which]
            if condition is None:
                raise InputError(
                    f"experiments: the {end} side of axis {axis} has no condition whose values "
                    "could differ: the axis is periodic"
                )
            last = list(vars(condition))[-1]
            pairs[axis][which] = type(condition)(**{**vars(condition), last: values})
        self._poisson.boundaries = [tuple(pair) for pair in pairs]
        self._sides = sides


def coefficient_pde(stepper: Any) -> CoefficientPDE:
    """What a config's PDE is for an inversion: one whose `diffusivity` can be set, or a
    `CoefficientPDE` of the user's own.
    """
    if hasattr(type(stepper), "diffusivity") or hasattr(stepper, "diffusivity"):
        return Conductivity(stepper)
    return stepper  # type: ignore[no-any-return]
