"""Conditions on the sides of a cell-centred grid for a velocity that carries itself."""

from __future__ import annotations

import torch
from torch import Tensor

from prdp_hpc.distributed.collective import call_together, raise_together
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.physics.boundaries import Boundaries, Neumann, Robin, Side, SideConditions


class VelocityWalls:
    """What the sides of a grid bring to `u_t + (u·∇)u = ν Δu`, per component.

    At a Dirichlet side with the value g, h / 2 from the first point, the viscosity brings
    `2 ν (g − u) / h²`, and where the normal component of g points inwards, with the speed w,
    upwinding brings `w (g − u) / h`. A Neumann side brings its flux, `q / h`; outwards is advected
    what is inside, and nothing comes in.

    Raises
    ------
    ValueError
        For a Robin condition, or conditions that the grid cannot have; on all ranks.
    """

    def __init__(self, grid: Grid, boundaries: Boundaries | None) -> None:
        conditions = SideConditions(grid, boundaries)
        wrong = [s.name for s in conditions.sides if isinstance(s.condition, Robin)]
        error = InputError(
            f"boundaries: {wrong and wrong[0]} takes Dirichlet(value) or Neumann(flux) here, not "
            "Robin"
        )
        raise_together(grid.comm, error if wrong else None)
        self.grid, self.sides = grid, conditions.sides
        self.boundaries = boundaries or [None] * grid.dim

    def numbers(self) -> list[Tensor]:
        """What each side says, `(dim, *face_shape)`; collective where that is more than numbers."""
        if all(isinstance(side.right_hand_side, float | int) for side in self.sides):
            return [self._of_components(side) for side in self.sides]
        return call_together(
            self.grid.comm, lambda: [self._of_components(side) for side in self.sides]
        )

    def weight(self, side: Side, numbers: Tensor, viscosity: float) -> Tensor:
        """How strongly a side holds the points next to it to its value, per time."""
        if isinstance(side.condition, Neumann):
            return torch.zeros_like(numbers[0])
        normal = numbers[self.grid.dim - 1 - side.axis]
        inwards = (normal if side.end == "low" else -normal).clamp(min=0.0)
        return 2.0 * viscosity / side.spacing**2 + inwards / side.spacing

    def brought(self, side: Side, numbers: Tensor, viscosity: float) -> Tensor:
        """What a side adds to the components next to it, per time, `(dim, *face_shape)`."""
        if isinstance(side.condition, Neumann):
            return numbers / side.spacing
        return self.weight(side, numbers, viscosity) * numbers

    def elsewhere(self, side: Side) -> Tensor:
        """1 at this rank's points, but 0 at those next to a side."""
        shape = self.grid.face_shape(side.axis, side.end)
        return 1.0 - side.spread(torch.ones(shape, dtype=torch.float64))

    def _of_components(self, side: Side) -> Tensor:
        found = side.evaluated(side.right_hand_side, None)
        face, dim = self.grid.face_shape(side.axis, side.end), self.grid.dim
        if found.dim() > dim and tuple(found.shape) != (dim, *face):
            raise InputError(
                f"boundaries: what {side.name} says must be a number, or a tensor of shape {face} "
                f"or {(dim, *face)} (one for each component), not {tuple(found.shape)}"
            )
        return found.expand(dim, *face)
