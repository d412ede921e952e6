"""Fluxes through the faces between points, for coefficients that depend on the solution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.grid.structured import Grid
from prdp_hpc.physics.boundaries import Dirichlet, Robin
from prdp_hpc.physics.side_conditions import Side, SideConditions

Conductivity = Callable[[Tensor], Tensor]
SideNumbers = Sequence[tuple[Tensor, ...]]
"""For each side its value, followed by the coefficient for a Robin side."""


class FaceFluxes:
    """`∇·(κ(u) ∇u)` by second-order central differences, with a condition on each side.

    κ at a face is the mean of κ(u) at both points. The flux through a Dirichlet side with the value
    g is the mean of κ(g) and of κ(u) at the point next to it, times the slope between the two. The
    flux through a Neumann side is given. The flux through a Robin side follows by elimination of
    the value at the face, with κ(u) of the point next to it.

    Parameters
    ----------
    grid : the grid of u.
    conditions : the conditions on its sides.
    """

    def __init__(self, grid: Grid, conditions: SideConditions) -> None:
        self.grid, self.conditions = grid, conditions

    def side_numbers(self) -> list[tuple[Tensor, ...]]:
        """The values of the conditions as tensors, which may require gradients; not collective."""
        return [
            (
                side.evaluated(side.right_hand_side, None),
                *((side.coefficient(None),) if isinstance(side.condition, Robin) else ()),
            )
            for side in self.conditions.sides
        ]

    def divergence(self, u: Tensor, conductivity: Conductivity, numbers: SideNumbers) -> Tensor:
        """The divergence for fields `(..., *local_shape)`; differentiable in u and the sides'
        values, collective.
        """
        padded = self.grid.halo(u)
        kappa = conductivity(padded)
        total = torch.zeros_like(u)
        for axis, h in enumerate(self.grid.spacing):
            line = _line(self.grid.dim, axis)
            along, n = axis - self.grid.dim, self.grid.local_shape[axis]
            before, after = (padded[line].narrow(along, side, n + 1) for side in (0, 1))
            left, right = (kappa[line].narrow(along, side, n + 1) for side in (0, 1))
            flux = self._closed(axis, 0.5 * (left + right) * (after - before))
            total = total + (flux.narrow(along, 1, n) - flux.narrow(along, 0, n)) / h**2
        for side, own in zip(self.conditions.sides, numbers, strict=True):
            inward = _through(side, side.next_to(u), conductivity, own)
            total = total + side.spread(inward) / side.spacing
        return total

    def _closed(self, axis: int, flux: Tensor) -> Tensor:
        """The `n + 1` fluxes along an axis, with those through its sides set to 0."""
        if self.grid.boundary[axis] == "periodic":
            return flux
        along, own = axis - self.grid.dim, self.grid.local_slices[axis]
        inside = flux.new_ones(flux.shape[along])
        if own.start == 0:
            inside[0] = 0.0
        if own.stop == self.grid.shape[axis]:
            inside[-1] = 0.0
        return flux * inside.view(-1, *(1,) * (-along - 1))


def _through(
    side: Side, near: Tensor, conductivity: Conductivity, numbers: tuple[Tensor, ...]
) -> Tensor:
    """`κ ∂u/∂n` at a side, with n outward and the values `near` of the points next to it."""
    value, h = numbers[0], side.spacing
    if isinstance(side.condition, Dirichlet):
        mean = 0.5 * (conductivity(near) + conductivity(value))
        return side.wall * mean * (value - near) / h
    if isinstance(side.condition, Robin):
        coefficient, kappa = numbers[1], conductivity(near)
        return 2.0 * kappa * (value - coefficient * near) / (coefficient * h + 2.0 * kappa)
    return value.expand_as(near) if value.dim() == 0 else value + torch.zeros_like(near)


def _line(dim: int, axis: int) -> Any:
    """From a field with one halo layer, the points with neighbours along one axis only."""
    return (Ellipsis, *(slice(None) if other == axis else slice(1, -1) for other in range(dim)))
