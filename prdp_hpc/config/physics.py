"""The section `physics`: one model a PDE, so that a key which means nothing for a PDE is
refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator

from prdp_hpc.config.models import Count, Positive, Section


class PoissonSection(Section):
    """`−∇·(κ ∇u) = f`: diffusivity κ."""

    pde: Literal["poisson"]
    diffusivity: Positive = 1.0


class HeatSection(Section):
    """`u_t = κ Δu`: diffusivity κ in length² / time, time step dt."""

    pde: Literal["heat"]
    diffusivity: Positive = 1.0
    dt: Positive


class _FlowSection(Section):
    viscosity: Positive
    dt: Positive
    picard_iterations: Count = 1
    gradient: Literal["full", "reduced"] = "full"


class BurgersSection(_FlowSection):
    """`u_t + (u·∇)u = ν Δu`: viscosity ν in length² / time, time step dt.

    `picard_iterations` linear solves a step; `gradient`: through the matrix values too ("full"), or
    through the right-hand sides only ("reduced").
    """

    pde: Literal["burgers"]


class NavierStokesSection(_FlowSection):
    """`u_t + (u·∇)u + ∇p = ν Δu`, `∇·u = 0`: the keys of Burgers."""

    pde: Literal["navier_stokes"]


EmulatedSection = Annotated[HeatSection | BurgersSection, Discriminator("pde")]
CorrectedSection = Annotated[
    HeatSection | BurgersSection | NavierStokesSection, Discriminator("pde")
]
SteppedSection = HeatSection | BurgersSection | NavierStokesSection
"""The PDEs that have time steps."""
