"""What is known of a coefficient field before anything is measured: smooth, or blocky."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.tasks.inversion.differences import ForwardDifferences


class H1Regularisation:
    """`weight / 2 · ∫ |∇m|²` by forward differences: smooth fields.

    The integral is the sum over the cells times their volume, so that the weight does not depend on
    the grid; at a boundary that is not periodic the gradient's normal part counts as 0.

    Raises ValueError for a negative weight. Collective.
    """

    def __init__(self, grid: Grid, weight: float) -> None:
        self._weight = _checked("weight", weight, least=0.0)
        self._differences = ForwardDifferences(grid)

    def __call__(self, m: Tensor) -> Tensor:
        """This rank's part of the value for this rank's part of m; differentiable, collective."""
        squares = sum(d.square().sum() for d in self._differences(m))
        return 0.5 * self._weight * self._differences.cell * torch.as_tensor(squares)


class TotalVariation:
    """`weight · ∫ (√(|∇m|² + ε²) − ε)` by forward differences: fields with jumps.

    `smoothing` is ε, in units of m per length: gradients well below it are smoothed as by H¹, those
    above cost as much as the jump is high. See `H1Regularisation` for the integral.

    Raises ValueError for a negative weight or an ε that is not positive. Collective.

    Source: Rudin, Osher and Fatemi, 1992; smoothed as by Acar and Vogel, 1994.
    """

    def __init__(self, grid: Grid, weight: float, smoothing: float = 0.1) -> None:
        self._weight = _checked("weight", weight, least=0.0)
        self._smoothing = _checked("smoothing", smoothing, least=math.nextafter(0.0, 1.0))
        self._differences = ForwardDifferences(grid)

    def __call__(self, m: Tensor) -> Tensor:
        """This rank's part of the value for this rank's part of m; differentiable, collective."""
        squares = torch.stack([d.square() for d in self._differences(m)]).sum(dim=0)
        length = (squares + self._smoothing**2).sqrt() - self._smoothing
        return self._weight * self._differences.cell * length.sum()


def _checked(name: str, value: float, least: float) -> float:
    if not (math.isfinite(value) and value >= least):
        raise InputError(
            f"regularisation.{name}: must be finite and {'at least' if least == 0.0 else 'above'} "
            f"0, not {value!r}"
        )
    return float(value)
