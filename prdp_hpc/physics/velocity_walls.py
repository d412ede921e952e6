"""Conditions on the sides of a cell-centred grid for a velocity that advects itself."""

from __future__ import annotations

import torch
from torch import Tensor

from prdp_hpc.distributed.collective import call_together, raise_together
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.physics.boundaries import Boundaries, Neumann, Robin
from prdp_hpc.physics.side_conditions import Side, SideConditions


class VelocityWalls:
    """The contributions of the sides of a grid to `u_t + (u·∇)u = ν Δu`, per component.

    A Dirichlet side with the value g, h / 2 from the first point, contributes `2 ν (g − u) / h²` by
    viscosity, and, if the normal component of g points inward with the speed w, `w (g − u) / h` by
    upwinding. A Neumann side contributes its flux, `q / h`; at outflow the interior values are
    advected.

    Raises
    ------
    ValueError
        For a Robin condition, or conditions that the grid does not allow; on all ranks.
    """

    def __init__(self, grid: Grid, boundaries: Boundaries | None) -> None:
        conditions = SideConditions(grid, boundaries)
        wrong = [s.name for s in conditions.sides if isinstance(s.condition, Robin)]
        error = InputError(
            f"boundaries: {wrong and wrong[0]} needs Dirichlet(value) or Neumann(flux) here, not "
            "Robin"
        )
        raise_together(grid.comm, error if wrong else None)
        self.grid, self.sides = grid, conditions.sides
        self.boundaries = boundaries or [None] * grid.dim

    def numbers(self) -> list[Tensor]:
        """The values of each side, `(dim, *face_shape)`; collective unless they are numbers."""
        if all(isinstance(side.right_hand_side, float | int) for side in self.sides):
            return [self._of_components(side) for side in self.sides]
        return call_together(
            self.grid.comm, lambda: [self._of_components(side) for side in self.sides]
        )

    def weight(self, side: Side, numbers: Tensor, viscosity: float) -> Tensor:
        """The coefficient of −u at the points next to a side, per time."""
        if isinstance(side.condition, Neumann):
            return torch.zeros_like(numbers[0])
        normal = numbers[self.grid.dim - 1 - side.axis]
        inwards = (normal if side.end == "low" else -normal).clamp(min=0.0)
        return 2.0 * viscosity / side.spacing**2 + inwards / side.spacing

    def contribution(self, side: Side, numbers: Tensor, viscosity: float) -> Tensor:
        """The contribution of a side to the points next to it, per time, `(dim, *face_shape)`."""
        if isinstance(side.condition, Neumann):
            return numbers / side.spacing
        return self.weight(side, numbers, viscosity) * numbers

    def elsewhere(self, side: Side) -> Tensor:
        """A mask: 0 at the points next to a side, 1 at this rank's other points."""
        shape = self.grid.face_shape(side.axis, side.end)
        return 1.0 - side.spread(torch.ones(shape, dtype=torch.float64))

    def _of_components(self, side: Side) -> Tensor:
        found = side.evaluated(side.right_hand_side, None)
        face, dim = self.grid.face_shape(side.axis, side.end), self.grid.dim
        if found.dim() > dim and tuple(found.shape) != (dim, *face):
            raise InputError(
                f"boundaries: the value of {side.name} must be a number, or a tensor of shape "
                f"{face} or {(dim, *face)} (one per component), not {tuple(found.shape)}"
            )
        return found.expand(dim, *face)
