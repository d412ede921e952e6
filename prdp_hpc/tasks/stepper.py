"""Physics steppers from a config."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from prdp_hpc.config import SteppedSection
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Solver
from prdp_hpc.physics import Burgers, Heat, NavierStokes


class Stepper(Protocol):
    """One time step of a PDE; `channels` names those of its state."""

    @property
    def channels(self) -> tuple[str, ...]:
        """One name per channel."""
        ...

    def __call__(self, u: Tensor, /) -> Tensor:
        """From a state `(B, C, *local_shape)` to the next."""
        ...


def build_stepper(physics: SteppedSection, grid: Grid, solver: Solver) -> Stepper:
    """The stepper of a section `physics`; collective."""
    if physics.pde == "heat":
        return Heat(grid, physics.diffusivity, physics.dt, solver)
    kind: type[Burgers | NavierStokes] = Burgers if physics.pde == "burgers" else NavierStokes
    return kind(
        grid, physics.viscosity, physics.dt, solver, physics.picard_iterations, physics.gradient
    )


def coefficient(physics: SteppedSection) -> tuple[str, float]:
    """The name and value of a PDE's diffusion coefficient: "diffusivity" or "viscosity"."""
    if physics.pde == "heat":
        return "diffusivity", physics.diffusivity
    return "viscosity", physics.viscosity
