"""The key `boundaries` of a PDE: the boundary condition on each side of the grid."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from prdp_hpc.config.models import Float, GridSection, Section, as_number
from prdp_hpc.errors import InputError

NotNegative = Annotated[float, BeforeValidator(as_number), Field(ge=0, allow_inf_nan=False)]


class DirichletSide(Section):
    """Dirichlet condition `u = value`."""

    kind: Literal["dirichlet"]
    """Type of the boundary condition: `u = value`."""
    value: Float = 0.0
    """Value of u on this side, in units of u."""


class NeumannSide(Section):
    """Neumann condition `κ ∂u/∂n = flux` with the outward normal n."""

    kind: Literal["neumann"]
    """Type of the boundary condition: `κ ∂u/∂n = flux`."""
    flux: Float = 0.0
    """Flux into the domain, in units of κ · u / length; positive: inwards."""


class RobinSide(Section):
    """Robin condition `κ ∂u/∂n + coefficient · u = value` with the outward normal n."""

    kind: Literal["robin"]
    """Type of the boundary condition: `κ ∂u/∂n + coefficient · u = value`."""
    coefficient: NotNegative
    """Transfer coefficient, in units of κ / length; at least 0."""
    value: Float = 0.0
    """Right-hand side of the condition, in units of κ · u / length."""


SideSection = Annotated[
    Annotated[DirichletSide, Tag("dirichlet")]
    | Annotated[NeumannSide, Tag("neumann")]
    | Annotated[RobinSide, Tag("robin")],
    Discriminator("kind"),
]


class AxisSides(Section):
    """The boundary conditions at the two ends of an axis."""

    low: SideSection | None = None
    """Condition at the lower end; null: that of `grid.boundary`."""
    high: SideSection | None = None
    """Condition at the upper end; null: that of `grid.boundary`."""


class BoundariesSection(Section):
    """The boundary conditions by axis, in the order of `grid.shape`."""

    axis_0: AxisSides | None = None
    """Sides of the first axis of `grid.shape`; null: as in `grid.boundary`."""
    axis_1: AxisSides | None = None
    """Sides of the second axis of `grid.shape`; null: as in `grid.boundary`."""
    axis_2: AxisSides | None = None
    """Sides of the third axis of `grid.shape`; null: as in `grid.boundary`."""

    @property
    def axes(self) -> tuple[AxisSides | None, ...]:
        """The sides of all axes in order."""
        return self.axis_0, self.axis_1, self.axis_2

    def check_grid(self, grid: GridSection) -> None:
        """Raise `InputError` for a side that the grid does not have, or a condition that its
        points do not support.
        """
        kinds = grid.boundary if isinstance(grid.boundary, tuple) else [grid.boundary] * 3
        for axis, sides in enumerate(self.axes):
            if sides is None:
                continue
            name = f"physics.boundaries.axis_{axis}"
            if axis >= len(grid.shape):
                raise InputError(
                    f"{name}: grid.shape has {len(grid.shape)} axes, axis_0 to "
                    f"axis_{len(grid.shape) - 1}"
                )
            if kinds[axis] == "periodic":
                raise InputError(
                    f"{name}: this axis of the grid is periodic and has no sides: leave it out, or "
                    "give grid.boundary=neumann, whose cell centres support all conditions"
                )
            for end, side in (("low", sides.low), ("high", sides.high)):
                if kinds[axis] == "dirichlet" and side is not None and side.kind != "dirichlet":
                    raise InputError(
                        f"{name}.{end}: with grid.boundary=dirichlet the points of this axis "
                        f"support only kind dirichlet, not {side.kind}: give "
                        "grid.boundary=neumann, whose cell centres support all conditions"
                    )
