"""Fluxes through the faces between grid points, for coefficients that depend on the solution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from prdp_hpc.grid.structured import Grid


def flux_divergence(grid: Grid, u: Tensor, conductivity: Callable[[Tensor], Tensor]) -> Tensor:
    """`∇·(κ(u) ∇u)` of fields `(..., *local_shape)` by second-order central differences;
    differentiable, collective.

    κ at a face is the mean of κ(u) at both points; beyond a Dirichlet boundary u is 0, and through
    a Neumann boundary there is no flux.
    """
    padded = grid.halo(u)
    kappa = conductivity(padded)
    total: Any = 0.0
    for axis, h in enumerate(grid.spacing):
        line = _line(grid.dim, axis)
        along, n = axis - grid.dim, grid.local_shape[axis]
        before, after = (padded[line].narrow(along, side, n + 1) for side in (0, 1))
        left, right = (kappa[line].narrow(along, side, n + 1) for side in (0, 1))
        flux = _closed(grid, axis, 0.5 * (left + right) * (after - before))
        total = total + (flux.narrow(along, 1, n) - flux.narrow(along, 0, n)) / h**2
    result: Tensor = total
    return result


def _closed(grid: Grid, axis: int, flux: Tensor) -> Tensor:
    """The fluxes `n + 1` along an axis, without those through a Neumann boundary."""
    if grid.boundary[axis] != "neumann":
        return flux
    along, own, last = axis - grid.dim, grid.local_slices[axis], flux.shape[axis - grid.dim] - 1
    inside = flux.new_ones(last + 1)
    if own.start == 0:
        inside[0] = 0.0
    if own.stop == grid.shape[axis]:
        inside[last] = 0.0
    return flux * inside.view(-1, *(1,) * (-along - 1))


def _line(dim: int, axis: int) -> Any:
    """From a field with one halo layer, the points with neighbours along one axis only."""
    return (Ellipsis, *(slice(None) if other == axis else slice(1, -1) for other in range(dim)))
