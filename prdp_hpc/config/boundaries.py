"""The key `boundaries` of diffusion PDEs: what is given on each side of the grid."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from prdp_hpc.config.models import Float, GridSection, Section, _number
from prdp_hpc.errors import InputError

NotNegative = Annotated[float, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]


class DirichletSide(Section):
    """`u = value`."""

    kind: Literal["dirichlet"]
    """`u = value`."""
    value: Float = 0.0
    """The value of u."""


class NeumannSide(Section):
    """`κ ∂u/∂n = flux`, inwards positive."""

    kind: Literal["neumann"]
    """`κ ∂u/∂n = flux`."""
    flux: Float = 0.0
    """The flux into the domain."""


class RobinSide(Section):
    """`κ ∂u/∂n + coefficient · u = value`."""

    kind: Literal["robin"]
    """`κ ∂u/∂n + coefficient · u = value`."""
    coefficient: NotNegative
    """The coefficient of u, at least 0."""
    value: Float = 0.0
    """The right-hand side."""


SideSection = Annotated[
    Annotated[DirichletSide, Tag("dirichlet")]
    | Annotated[NeumannSide, Tag("neumann")]
    | Annotated[RobinSide, Tag("robin")],
    Discriminator("kind"),
]


class AxisSides(Section):
    """The two ends of an axis; without one, as the grid's boundary says."""

    low: SideSection | None = None
    """Condition at the low end; null: that of `grid.boundary`."""
    high: SideSection | None = None
    """Condition at the high end; null: that of `grid.boundary`."""


class BoundariesSection(Section):
    """The sides by axis, in the order of `grid.shape`."""

    axis_0: AxisSides | None = None
    """Conditions on the two sides of the first axis."""
    axis_1: AxisSides | None = None
    """Conditions on the two sides of the second axis."""
    axis_2: AxisSides | None = None
    """Conditions on the two sides of the third axis."""

    @property
    def axes(self) -> tuple[AxisSides | None, ...]:
        """In order."""
        return self.axis_0, self.axis_1, self.axis_2

    def check_grid(self, grid: GridSection) -> None:
        """Raise `InputError` for a side that the grid does not have, or that cannot be so there."""
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
                    "give grid.boundary=neumann, cell centres that take any condition"
                )
            for end, side in (("low", sides.low), ("high", sides.high)):
                if kinds[axis] == "dirichlet" and side is not None and side.kind != "dirichlet":
                    raise InputError(
                        f"{name}.{end}: with grid.boundary=dirichlet the points of this axis take "
                        f"kind dirichlet only, not {side.kind}: give grid.boundary=neumann, cell "
                        "centres that take any condition"
                    )
