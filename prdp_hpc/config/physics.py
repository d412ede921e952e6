"""The keys of the built-in PDEs in the section `physics`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from prdp_hpc.config.boundaries import BoundariesSection
from prdp_hpc.config.models import Count, Float, GridSection, Positive, Section
from prdp_hpc.errors import InputError


class DiffusionSection(Section):
    """What equations with the term `∇·(κ ∇u)` share: diffusivity κ; what is given on the sides; how
    κ between two points comes from theirs ("harmonic" where it jumps).
    """

    diffusivity: Positive = 1.0
    boundaries: BoundariesSection | None = None
    face_mean: Literal["arithmetic", "harmonic"] = "arithmetic"

    def check_grid(self, grid: GridSection) -> None:
        """Raise `InputError` for sides that the grid does not have."""
        if self.boundaries is not None:
            self.boundaries.check_grid(grid)

    @model_serializer(mode="wrap")
    def _as_ever(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the keys that are left at their defaults, which older files do not have: names of
        generated data are made from what is written here.
        """
        kept: dict[str, Any] = dump(self)
        for key, field in type(self).model_fields.items():
            if key not in ("pde", "diffusivity", "dt") and kept.get(key) == field.default:
                kept.pop(key, None)
        return kept


class PoissonSection(DiffusionSection):
    """`−∇·(κ ∇u) = f`."""

    component: ClassVar[str] = "prdp_hpc.physics.poisson:Poisson"
    has_steps: ClassVar[bool] = False

    pde: str = "poisson"


class HeatSection(DiffusionSection):
    """`u_t = ∇·(κ ∇u) + source`: diffusivity κ in length² / time, time step dt."""

    component: ClassVar[str] = "prdp_hpc.physics.heat:Heat"
    has_steps: ClassVar[bool] = True

    pde: str = "heat"
    dt: Positive
    source: Float = 0.0

    def workload(self, shape: tuple[int, ...]) -> dict[str, int | bool]:
        """See `prdp_hpc.planning.PhysicsWorkload`."""
        return {"channels": 1, "entries": 2 * len(shape) + 1, "one_matrix": True}


class FlowSection(Section):
    """Viscosity ν in length² / time, time step dt; `picard_iterations` linear solves a step;
    `gradient`: through the matrix values too ("full"), or through the right-hand sides only
    ("reduced").
    """

    has_steps: ClassVar[bool] = True

    pde: str
    viscosity: Positive
    dt: Positive
    picard_iterations: Count = 1
    gradient: Literal["full", "reduced"] = "full"

    def check_grid(self, grid: GridSection) -> None:
        """Raise `InputError` for a grid that the PDE cannot be solved on."""
        if grid.boundaries != {"periodic"}:
            raise InputError(
                f"physics.pde={self.pde} needs a periodic grid: give grid.boundary=periodic"
            )


class BurgersSection(FlowSection):
    """`u_t + (u·∇)u = ν Δu`."""

    component: ClassVar[str] = "prdp_hpc.physics.burgers:Burgers"

    pde: str = "burgers"

    def workload(self, shape: tuple[int, ...]) -> dict[str, int | bool]:
        """See `prdp_hpc.planning.PhysicsWorkload`: a system for each component."""
        dim = len(shape)
        systems = self.picard_iterations * dim
        return {"channels": dim, "entries": 2 * dim + 1, "solves": systems}


class NavierStokesSection(FlowSection):
    """`u_t + (u·∇)u + ∇p = ν Δu`, `∇·u = 0`: the keys of Burgers."""

    component: ClassVar[str] = "prdp_hpc.physics.navier_stokes:NavierStokes"

    pde: str = "navier_stokes"

    def workload(self, shape: tuple[int, ...]) -> dict[str, int | bool]:
        """See `prdp_hpc.planning.PhysicsWorkload`: one coupled system."""
        dim = len(shape)
        return {
            "channels": dim + 1,
            "rows": dim + 1,
            "entries": dim * (2 * dim + 3) + 2 * dim,
            "solves": self.picard_iterations,
        }

    def check_grid(self, grid: GridSection) -> None:
        """Raise `InputError` for a grid that the PDE cannot be solved on."""
        super().check_grid(grid)
        if len(grid.shape) == 1:
            raise InputError(
                "physics.pde=navier_stokes needs grid.shape with 2 or 3 entries, not 1"
            )
