"""Regularisation: prior knowledge that a coefficient field is smooth, or that it has jumps."""

from __future__ import annotations

import torch
from torch import Tensor

from prdp_hpc.grid.structured import Grid
from prdp_hpc.number_checks import check_number
from prdp_hpc.tasks.inversion.differences import ForwardDifferences


class H1Regularisation:
    """H¹ regularisation for smooth fields: `weight / 2 · ∫ |∇m|²`.

    The gradient is approximated by forward differences; its normal component is 0 at a boundary
    that is not periodic. The integral is the sum over the cells times their volume, so that the
    weight does not depend on the grid. Called with this rank's part of m, of shape `local_shape`,
    it returns this rank's part of the value; differentiable, collective.

    Parameters
    ----------
    grid : Grid
        The grid of m.
    weight : float
        Weight of the regularisation, at least 0.

    Raises
    ------
    InputError
        For a negative weight.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import Grid, H1Regularisation
    >>> grid = Grid((4,), boundary="periodic")  # spacing 1/4
    >>> H1Regularisation(grid, weight=2.0)(torch.tensor([0.0, 1.0, 1.0, 0.0]).double()).item()
    8.0
    """

    def __init__(self, grid: Grid, weight: float) -> None:
        check_number("regularisation.weight", weight, least=0)
        self._weight = float(weight)
        self._differences = ForwardDifferences(grid)

    def __call__(self, m: Tensor) -> Tensor:
        """Compute this rank's part of the value; differentiable, collective."""
        squares = sum(d.square().sum() for d in self._differences(m))
        return 0.5 * self._weight * self._differences.cell * torch.as_tensor(squares)


class TotalVariation:
    """Smoothed total variation for fields with jumps: `weight · ∫ (√(|∇m|² + ε²) − ε)`.

    Gradients well below ε are penalised like by H¹; for larger ones the value is proportional to
    the height of the jump. Gradient and integral are those of `H1Regularisation`. Called with this
    rank's part of m, of shape `local_shape`, it returns this rank's part of the value;
    differentiable, collective.

    Parameters
    ----------
    grid : Grid
        The grid of m.
    weight : float
        Weight of the regularisation, at least 0.
    smoothing : float, default 0.1
        The smoothing parameter ε, above 0, in units of m per length.

    Raises
    ------
    InputError
        For a negative weight, or an ε that is not positive.

    References
    ----------
    Rudin, Osher and Fatemi, 1992; smoothed as by Acar and Vogel, 1994.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import Grid, TotalVariation
    >>> total_variation = TotalVariation(Grid((4,), boundary="periodic"), 1.0, smoothing=1e-6)
    >>> round(total_variation(torch.tensor([0.0, 1.0, 1.0, 0.0]).double()).item(), 4)
    2.0
    """

    def __init__(self, grid: Grid, weight: float, smoothing: float = 0.1) -> None:
        check_number("regularisation.weight", weight, least=0)
        check_number("regularisation.smoothing", smoothing, above=0)
        self._weight, self._smoothing = float(weight), float(smoothing)
        self._differences = ForwardDifferences(grid)

    def __call__(self, m: Tensor) -> Tensor:
        """Compute this rank's part of the value; differentiable, collective."""
        squares = torch.stack([d.square() for d in self._differences(m)]).sum(dim=0)
        length = (squares + self._smoothing**2).sqrt() - self._smoothing
        return self._weight * self._differences.cell * length.sum()
