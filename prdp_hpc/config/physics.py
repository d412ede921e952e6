"""The section `physics` of a config for the built-in PDEs.

`starting` is what `prdp-hpc init` writes for a PDE, and `starting_dimensions` are its grids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from prdp_hpc.config.boundaries import BoundariesSection
from prdp_hpc.config.models import (
    Count,
    Float,
    GridSection,
    Level,
    Positive,
    Section,
    Share,
    as_number,
)
from prdp_hpc.errors import InputError

_NEWTON_LADDER = {"start": 1, "step": 1, "stop": 5}


class DiffusionSection(Section):
    """Base of the PDEs with the term `∇·(κ ∇u)`."""

    diffusivity: Positive = 1.0
    """Diffusivity κ, in length² / time (without unit for Poisson)."""
    boundaries: BoundariesSection | None = None
    """Boundary conditions by axis and end; null: those of `grid.boundary`."""
    face_mean: Literal["arithmetic", "harmonic"] = "arithmetic"
    """Mean of κ on the face between two points; harmonic: for κ with jumps."""

    def check_grid(self, grid: GridSection) -> None:
        """Raise `InputError` for boundary conditions that the grid does not support."""
        if self.boundaries is not None:
            self.boundaries.check_grid(grid)

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out keys with default values, which older configs do not have, because the file
        names of generated data are hashes of this output.
        """
        kept: dict[str, Any] = dump(self)
        for key, field in type(self).model_fields.items():
            if key not in ("pde", "diffusivity", "dt") and kept.get(key) == field.default:
                kept.pop(key, None)
        return kept


class PoissonSection(DiffusionSection):
    """Poisson equation `−∇·(κ ∇u) = f`."""

    component: ClassVar[str] = "prdp_hpc.physics.poisson:Poisson"
    has_steps: ClassVar[bool] = False

    pde: str = "poisson"
    """Name of the PDE."""


class HeatSection(DiffusionSection):
    """Heat equation `u_t = ∇·(κ ∇u) + source`."""

    component: ClassVar[str] = "prdp_hpc.physics.heat:Heat"
    has_steps: ClassVar[bool] = True
    starting: ClassVar[Mapping[str, Any]] = {"physics": {"diffusivity": 1e-3, "dt": 1.0}}

    pde: str = "heat"
    """Name of the PDE."""
    dt: Positive
    """Time step, in units of time."""
    source: Float = 0.0
    """Constant source term, in units of u / time."""
    theta: Annotated[float, BeforeValidator(as_number), Field(ge=0.5, le=1)] = 1.0
    """Parameter θ of the time scheme: 1 backward Euler, 0.5 Crank–Nicolson."""

    def workload(self, shape: tuple[int, ...]) -> dict[str, int | bool]:
        """See `prdp_hpc.planning.PhysicsWorkload`."""
        return {"channels": 1, "entries": 2 * len(shape) + 1, "one_matrix": True}


def _inner(value: Any) -> Any:
    """Check words first, so that the message for a misspelt one is not about a wrong number."""
    if isinstance(value, str) and value[:1].isalpha() and value != "eisenstat_walker":
        raise InputError(f"must be a level or 'eisenstat_walker', not {value!r}")
    return value


class NewtonSection(Section):
    """Newton's method for each time step.

    The levels of the section `refinement` are either those of Newton's method or those of its
    linear solves; the other level is constant.
    """

    refines: Literal["newton", "inner"] = "newton"
    """What the levels of `refinement` apply to: Newton's method, or its linear solves."""
    level: Level = 1e-8
    """Level of Newton's method with `refines: inner`: iterations or a tolerance."""
    inner: Annotated[Level | Literal["eisenstat_walker"], BeforeValidator(_inner)] = 1e-2
    """Level of linear solves with `refines: newton`: a level, or eisenstat_walker."""

    @property
    def linear_solves(self) -> int:
        """Linear solves per time step and per iteration that a level counts, for `prdp-hpc plan`.
        If the constant level is a tolerance, 4 Newton iterations or 10 linear ones are assumed.
        """
        if self.refines == "inner":
            return self.level if isinstance(self.level, int) else 4
        return self.inner if isinstance(self.inner, int) else 10


class NewtonStepSection(Section):
    """Base of the PDEs with one channel whose time steps use Newton's method."""

    has_steps: ClassVar[bool] = True

    pde: str
    """Name of the PDE."""
    boundaries: BoundariesSection | None = None
    """Boundary conditions by axis and end; null: those of `grid.boundary`."""
    newton: NewtonSection = NewtonSection()
    """Newton's method."""

    def check_grid(self, grid: GridSection) -> None:
        """Raise `InputError` for boundary conditions that the grid does not support."""
        if self.boundaries is not None:
            self.boundaries.check_grid(grid)

    @property
    def levels_count_inner_iterations(self) -> bool:
        """Whether a level that is an integer counts iterations of the linear solves."""
        return self.newton.refines == "inner"

    def workload(self, shape: tuple[int, ...]) -> dict[str, int | bool]:
        """See `prdp_hpc.planning.PhysicsWorkload`."""
        entries, solves = 2 * len(shape) + 1, self.newton.linear_solves
        return {"channels": 1, "entries": entries, "solves": solves}


class AllenCahnSection(NewtonStepSection):
    """Allen–Cahn equation `u_t = ε² Δu + u − u³`."""

    component: ClassVar[str] = "prdp_hpc.physics.allen_cahn:AllenCahn"
    starting: ClassVar[Mapping[str, Any]] = {
        "grid": {"boundary": "periodic"},
        "physics": {"interface": 0.06, "dt": 0.5},
        "refinement": {"ladder": _NEWTON_LADDER},
    }

    pde: str = "allen_cahn"
    """Name of the PDE."""
    interface: Positive
    """Width ε of an interface, in units of length."""
    dt: Share
    """Time step, without unit; below 1."""


class NonlinearDiffusionSection(NewtonStepSection):
    """Nonlinear diffusion `u_t = ∇·(κ(u) ∇u)`, with κ = κ₀ (1 + β u²) or κ = κ₀ |u|^β."""

    component: ClassVar[str] = "prdp_hpc.physics.nonlinear_diffusion:NonlinearDiffusion"
    starting: ClassVar[Mapping[str, Any]] = {
        "physics": {"diffusivity": 1e-3, "dt": 1.0},
        "solver": {"ksp": "gmres", "pc": "jacobi"},
        "refinement": {"ladder": _NEWTON_LADDER},
    }

    pde: str = "nonlinear_diffusion"
    """Name of the PDE."""
    diffusivity: Positive
    """Diffusivity κ₀, in length² / time."""
    dt: Positive
    """Time step, in units of time."""
    law: Literal["quadratic", "power"] = "quadratic"
    """Diffusivity: κ₀ (1 + β u²) (quadratic) or κ₀ |u|^β (power)."""
    exponent: Annotated[Float, Field(ge=0)] = 1.0
    """β in the diffusivity; at least 0, and at least 1 for power."""

    @model_validator(mode="after")
    def _smooth(self) -> NonlinearDiffusionSection:
        if self.law == "power" and self.exponent < 1:
            raise InputError("exponent must be at least 1 for law: power")
        return self


class FlowSection(Section):
    """Base of the flow equations."""

    has_steps: ClassVar[bool] = True

    pde: str
    """Name of the PDE."""
    viscosity: Positive
    """Viscosity ν, in length² / time."""
    dt: Positive
    """Time step, in units of time."""
    picard_iterations: Count = 1
    """Picard iterations, i.e. linear solves, per time step."""
    gradient: Literal["full", "reduced"] = "full"
    """full: gradients include the matrix; reduced: through right-hand sides only."""

    def check_grid(self, grid: GridSection) -> None:
        """Raise `InputError` for a grid that the PDE does not support."""
        if grid.boundaries != {"periodic"}:
            raise InputError(
                f"physics.pde={self.pde} needs a periodic grid: give grid.boundary=periodic"
            )


class BurgersSection(FlowSection):
    """Burgers equation `u_t + (u·∇)u = ν Δu`.

    The grid is periodic, or has cell centres (`grid.boundary: neumann`) and `boundaries`.
    """

    component: ClassVar[str] = "prdp_hpc.physics.burgers:Burgers"
    starting: ClassVar[Mapping[str, Any]] = {
        "grid": {"boundary": "periodic"},
        "physics": {"viscosity": 5e-3, "dt": 0.05},
        "solver": {"ksp": "gmres", "pc": "jacobi"},
    }

    pde: str = "burgers"
    """Name of the PDE."""
    boundaries: BoundariesSection | None = None
    """Dirichlet or Neumann conditions by axis and end; null: periodic grid."""
    nonlinear: Literal["picard", "newton"] = "picard"
    """Nonlinear method of a time step: Picard iterations or Newton's method."""
    newton: NewtonSection = NewtonSection()
    """Newton's method, with `nonlinear: newton`."""

    @property
    def levels_count_inner_iterations(self) -> bool:
        """Whether a level that is an integer counts iterations of the linear solves."""
        return self.nonlinear == "picard" or self.newton.refines == "inner"

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out keys without effect, so that generated data keep their file names."""
        found: dict[str, Any] = handler(self)
        if self.boundaries is None:
            found.pop("boundaries", None)
        if self.nonlinear == "picard":
            found.pop("nonlinear", None)
            found.pop("newton", None)
        return found

    def check_grid(self, grid: GridSection) -> None:
        """Raise `InputError` for a grid that the PDE does not support."""
        if self.boundaries is None:
            super().check_grid(grid)
            return
        if "dirichlet" in grid.boundaries:
            raise InputError(
                "physics.boundaries: burgers supports boundary conditions only with cell centres: "
                "give grid.boundary=neumann"
            )
        self.boundaries.check_grid(grid)
        for axis, sides in enumerate(self.boundaries.axes):
            for end in ("low", "high"):
                side = None if sides is None else getattr(sides, end)
                if side is not None and side.kind == "robin":
                    raise InputError(
                        f"physics.boundaries.axis_{axis}.{end}.kind: burgers supports dirichlet "
                        "and neumann, not robin"
                    )

    def workload(self, shape: tuple[int, ...]) -> dict[str, int | bool]:
        """See `prdp_hpc.planning.PhysicsWorkload`: one system per component with Picard iterations,
        one for all components with Newton's method.
        """
        dim = len(shape)
        if self.nonlinear == "newton":
            entries, solves = (2 * dim + 1) * dim**2, self.newton.linear_solves
            return {"channels": dim, "rows": dim, "entries": entries, "solves": solves}
        systems = self.picard_iterations * dim
        return {"channels": dim, "entries": 2 * dim + 1, "solves": systems}


class NavierStokesSection(FlowSection):
    """Incompressible Navier–Stokes equations `u_t + (u·∇)u + ∇p = ν Δu`, `∇·u = 0`."""

    component: ClassVar[str] = "prdp_hpc.physics.navier_stokes:NavierStokes"
    starting_dimensions: ClassVar[tuple[int, ...]] = (2,)
    starting: ClassVar[Mapping[str, Any]] = {
        "grid": {"boundary": "periodic"},
        "physics": {"viscosity": 1e-3, "dt": 0.1},
        "solver": {"ksp": "gmres", "pc": "constraint"},
    }

    pde: str = "navier_stokes"
    """Name of the PDE."""

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
        """Raise `InputError` for a grid that the PDE does not support."""
        super().check_grid(grid)
        if len(grid.shape) == 1:
            raise InputError(
                "physics.pde=navier_stokes needs grid.shape with 2 or 3 entries, not 1"
            )
