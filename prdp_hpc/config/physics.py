"""The keys of the built-in PDEs in the section `physics`."""

from __future__ import annotations

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
    _number,
)
from prdp_hpc.errors import InputError


class DiffusionSection(Section):
    """What equations with the term `∇·(κ ∇u)` share: diffusivity κ; what is given on the sides; how
    κ between two points comes from theirs ("harmonic" where it jumps).
    """

    diffusivity: Positive = 1.0
    """Diffusivity κ, in length² / time."""
    boundaries: BoundariesSection | None = None
    """Conditions on the sides; null: those of `grid.boundary`."""
    face_mean: Literal["arithmetic", "harmonic"] = "arithmetic"
    """How κ at a face follows from its two points; "harmonic" where κ jumps."""

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
    """The equation `−∇·(κ ∇u) = f`."""


class HeatSection(DiffusionSection):
    """`u_t = ∇·(κ ∇u) + source`: diffusivity κ in length² / time, time step dt; theta: of the
    scheme in time, 1 (backward Euler) to 0.5 (Crank–Nicolson).
    """

    component: ClassVar[str] = "prdp_hpc.physics.heat:Heat"
    has_steps: ClassVar[bool] = True

    pde: str = "heat"
    """The equation `u_t = ∇·(κ ∇u) + source`."""
    dt: Positive
    """Time step."""
    source: Float = 0.0
    """Source term, in units of u / time."""
    theta: Annotated[float, BeforeValidator(_number), Field(ge=0.5, le=1)] = 1.0
    """Time scheme: 1 is backward Euler, 0.5 is Crank–Nicolson."""

    def workload(self, shape: tuple[int, ...]) -> dict[str, int | bool]:
        """See `prdp_hpc.planning.PhysicsWorkload`."""
        return {"channels": 1, "entries": 2 * len(shape) + 1, "one_matrix": True}


def _inner(value: Any) -> Any:
    """A word is checked as one, so that a misspelt one is not taken for a wrong number."""
    if isinstance(value, str) and value[:1].isalpha() and value != "eisenstat_walker":
        raise InputError(f"must be a level or 'eisenstat_walker', not {value!r}")
    return value


class NewtonSection(Section):
    """Newton's method for each step.

    `refines`: what the levels of `refinement` are: of Newton's method ("newton": iterations, or a
    tolerance of the residual), or of its linear solves ("inner"). The other one is fixed: `inner`,
    the level of each linear solve, or "eisenstat_walker"; or `level`, Newton's.
    """

    refines: Literal["newton", "inner"] = "newton"
    """What the levels of `refinement` belong to: Newton's method ("newton") or its linear solves
    ("inner").
    """
    level: Level = 1e-8
    """Level of Newton's method with `refines: inner`."""
    inner: Annotated[Level | Literal["eisenstat_walker"], BeforeValidator(_inner)] = 1e-2
    """Level of the linear solves with `refines: newton`, or "eisenstat_walker"."""

    @property
    def linear_solves(self) -> int:
        """Linear systems a step for each iteration that a level counts: their product is the linear
        iterations. Where the fixed part is a tolerance, about 4 Newton iterations, or 10 linear
        ones.
        """
        if self.refines == "inner":
            return self.level if isinstance(self.level, int) else 4
        return self.inner if isinstance(self.inner, int) else 10


class NewtonStepSection(Section):
    """What equations of one channel share whose steps Newton's method does: what is given on the
    sides, and how Newton's method is refined.
    """

    has_steps: ClassVar[bool] = True

    pde: str
    """The name of the equation."""
    boundaries: BoundariesSection | None = None
    """Conditions on the sides; null: those of `grid.boundary`."""
    newton: NewtonSection = NewtonSection()
    """Newton's method and its refinement."""

    def check_grid(self, grid: GridSection) -> None:
        """Raise `InputError` for sides that the grid does not have."""
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
    """`u_t = ε² Δu + u − u³`: width of an interface ε in units of length, time step dt < 1; what is
    given on the sides.
    """

    component: ClassVar[str] = "prdp_hpc.physics.allen_cahn:AllenCahn"

    pde: str = "allen_cahn"
    """The equation `u_t = ε² Δu + u − u³`."""
    interface: Positive
    """Width ε of an interface, in units of length."""
    dt: Share
    """Time step, below 1."""


class NonlinearDiffusionSection(NewtonStepSection):
    """`u_t = ∇·(κ(u) ∇u)`: diffusivity κ₀ in length² / time, time step dt; κ is κ₀ (1 + β u²)
    (`law: quadratic`) or κ₀ |u|^β (`law: power`), with the `exponent` β; what is given on the
    sides.
    """

    component: ClassVar[str] = "prdp_hpc.physics.nonlinear_diffusion:NonlinearDiffusion"

    pde: str = "nonlinear_diffusion"
    """The equation `u_t = ∇·(κ(u) ∇u)`."""
    diffusivity: Positive
    """Diffusivity κ₀, in length² / time."""
    dt: Positive
    """Time step."""
    law: Literal["quadratic", "power"] = "quadratic"
    """κ(u): "quadratic" is κ₀ (1 + β u²), "power" is κ₀ abs(u)^β."""
    exponent: Annotated[Float, Field(ge=0)] = 1.0
    """The number β of `law`."""

    @model_validator(mode="after")
    def _smooth(self) -> NonlinearDiffusionSection:
        if self.law == "power" and self.exponent < 1:
            raise InputError("exponent must be at least 1 for law: power")
        return self


class FlowSection(Section):
    """Viscosity ν in length² / time, time step dt; `picard_iterations` linear solves a step;
    `gradient`: through the matrix values too ("full"), or through the right-hand sides only
    ("reduced").
    """

    has_steps: ClassVar[bool] = True

    pde: str
    """The name of the equation."""
    viscosity: Positive
    """Viscosity ν, in length² / time."""
    dt: Positive
    """Time step."""
    picard_iterations: Count = 1
    """Linear solves per time step."""
    gradient: Literal["full", "reduced"] = "full"
    """"full": also through the matrix values. "reduced": the matrix values are treated as constant.
    """

    def check_grid(self, grid: GridSection) -> None:
        """Raise `InputError` for a grid that the PDE cannot be solved on."""
        if grid.boundaries != {"periodic"}:
            raise InputError(
                f"physics.pde={self.pde} needs a periodic grid: give grid.boundary=periodic"
            )


class BurgersSection(FlowSection):
    """`u_t + (u·∇)u = ν Δu`; `nonlinear`: by Picard iterations, or by Newton's method; with
    `boundaries`, what is given on the sides, dirichlet or neumann, of a grid of cell centres.
    """

    component: ClassVar[str] = "prdp_hpc.physics.burgers:Burgers"

    pde: str = "burgers"
    """The equation `u_t + (u·∇)u = ν Δu`."""
    boundaries: BoundariesSection | None = None
    """Conditions on the sides of a grid of cell centres: dirichlet or neumann. null: a periodic
    grid.
    """
    nonlinear: Literal["picard", "newton"] = "picard"
    """How a step is solved: "picard" or "newton"."""
    newton: NewtonSection = NewtonSection()
    """Of `nonlinear: newton`: Newton's method and its refinement."""

    @property
    def levels_count_inner_iterations(self) -> bool:
        """Whether a level that is an integer counts iterations of the linear solves."""
        return self.nonlinear == "picard" or self.newton.refines == "inner"

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without keys that say nothing: what is generated for a config keeps its name."""
        found: dict[str, Any] = handler(self)
        if self.boundaries is None:
            found.pop("boundaries", None)
        if self.nonlinear == "picard":
            found.pop("nonlinear", None)
            found.pop("newton", None)
        return found

    def check_grid(self, grid: GridSection) -> None:
        """Raise `InputError` for a grid that the PDE cannot be solved on."""
        if self.boundaries is None:
            super().check_grid(grid)
            return
        if "dirichlet" in grid.boundaries:
            raise InputError(
                "physics.boundaries: burgers takes conditions on the sides of cell centres: give "
                "grid.boundary=neumann"
            )
        self.boundaries.check_grid(grid)
        for axis, sides in enumerate(self.boundaries.axes):
            for end in ("low", "high"):
                side = None if sides is None else getattr(sides, end)
                if side is not None and side.kind == "robin":
                    raise InputError(
                        f"physics.boundaries.axis_{axis}.{end}.kind: burgers takes dirichlet or "
                        "neumann, not robin"
                    )

    def workload(self, shape: tuple[int, ...]) -> dict[str, int | bool]:
        """See `prdp_hpc.planning.PhysicsWorkload`: a system for each component, by Newton's method
        one for all.
        """
        dim = len(shape)
        if self.nonlinear == "newton":
            entries, solves = (2 * dim + 1) * dim**2, self.newton.linear_solves
            return {"channels": dim, "rows": dim, "entries": entries, "solves": solves}
        systems = self.picard_iterations * dim
        return {"channels": dim, "entries": 2 * dim + 1, "solves": systems}


class NavierStokesSection(FlowSection):
    """`u_t + (u·∇)u + ∇p = ν Δu`, `∇·u = 0`: the keys of Burgers."""

    component: ClassVar[str] = "prdp_hpc.physics.navier_stokes:NavierStokes"

    pde: str = "navier_stokes"
    """The equations `u_t + (u·∇)u + ∇p = ν Δu`, `∇·u = 0`."""

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
