"""Conditions on the sides of a grid: Dirichlet, Neumann or Robin, separately for each side.

The possible conditions of an axis depend on the positions of its points (see `Grid`): cell centres
(`boundary="neumann"`) allow all conditions on each side, with a Dirichlet value at the face, half a
cell from the first point; interior points (`boundary="dirichlet"`) allow Dirichlet values. Periodic
axes have no sides. The default of a side is that of the grid: no flux, or the value 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor

from prdp_hpc.grid.geometry import ENDS

Value = float | Tensor | Callable[..., Any]
"""The value of a condition: a number, a tensor, or a function of the coordinates.

A tensor of shape `()` is equal on all ranks. One of shape `(..., *grid.face_shape(axis, end))`
is this rank's part of the side; leading axes are samples, and broadcast with those of the fields.
A function is called as `f(*grid.face_coordinates(axis, end))`, or, if it has one more argument,
with the time after the coordinates; it returns a number or a tensor of these shapes. Tensors, and
the results of functions, may require a gradient.
"""


@dataclass(frozen=True, eq=False)
class Dirichlet:
    """The condition `u = value` on a side of a grid.

    On axes of cell centres (`boundary="neumann"`) the value is that at the face, half a cell from
    the first point; on axes of interior points (`boundary="dirichlet"`) it is one spacing away.

    Parameters
    ----------
    value : float, Tensor or callable, default 0.0
        A number; a tensor of shape `()` or `(..., *grid.face_shape(axis, end))`, this rank's part
        of the side, whose leading axes are samples; or a function of the coordinates of the side
        and optionally the time, which returns one of these. Tensors may require a gradient.

    Examples
    --------
    Steady heat between the temperatures 1 and 0:

    >>> import torch
    >>> from prdp_hpc import Dirichlet, Grid, Poisson, Solver
    >>> grid = Grid((4,), boundary="neumann")
    >>> sides = [(Dirichlet(1.0), Dirichlet(0.0))]
    >>> Poisson(grid, Solver("cg", "jacobi"), boundaries=sides)(torch.zeros(1, 1, 4).double())
    tensor([[[0.8750, 0.6250, 0.3750, 0.1250]]], dtype=torch.float64)
    """

    value: Value = 0.0


@dataclass(frozen=True, eq=False)
class Neumann:
    """The condition `κ ∂u/∂n = flux` on a side of a grid of cell centres.

    The normal n points outward, so a positive flux, per area and time, enters the domain.

    Parameters
    ----------
    flux : float, Tensor or callable, default 0.0
        The flux: a number, a tensor of shape `()` or `(..., *grid.face_shape(axis, end))`, or a
        function, as for `Dirichlet`.

    Examples
    --------
    A flux of 1 on the left and the value 0 on the right, with the solution `u = 1 − x`:

    >>> import torch
    >>> from prdp_hpc import Dirichlet, Grid, Neumann, Poisson, Solver
    >>> grid = Grid((4,), boundary="neumann")
    >>> sides = [(Neumann(1.0), Dirichlet(0.0))]
    >>> Poisson(grid, Solver("cg", "jacobi"), boundaries=sides)(torch.zeros(1, 1, 4).double())
    tensor([[[0.8750, 0.6250, 0.3750, 0.1250]]], dtype=torch.float64)
    """

    flux: Value = 0.0


@dataclass(frozen=True, eq=False)
class Robin:
    """The condition `κ ∂u/∂n + coefficient · u = value` on a side of a grid of cell centres.

    The normal n points outward. The coefficient is at least 0 and shared by all samples, because it
    is part of the matrix.

    Parameters
    ----------
    coefficient : float, Tensor or callable
        The coefficient: a number, a tensor of shape `()` or `grid.face_shape(axis, end)`, or a
        function, as for `Dirichlet`.
    value : float, Tensor or callable, default 0.0
        The value: a number, a tensor of shape `()` or `(..., *grid.face_shape(axis, end))`, or a
        function, as for `Dirichlet`.

    Examples
    --------
    The value 1 on the left and heat loss `u` on the right, with the solution `u = 1 − x / 2`:

    >>> import torch
    >>> from prdp_hpc import Dirichlet, Grid, Poisson, Robin, Solver
    >>> grid = Grid((4,), boundary="neumann")
    >>> sides = [(Dirichlet(1.0), Robin(coefficient=1.0))]
    >>> Poisson(grid, Solver("cg", "jacobi"), boundaries=sides)(torch.zeros(1, 1, 4).double())
    tensor([[[0.9375, 0.8125, 0.6875, 0.5625]]], dtype=torch.float64)
    """

    coefficient: Value
    value: Value = 0.0


Condition = Dirichlet | Neumann | Robin
Boundaries = Sequence[tuple[Condition | None, Condition | None] | None]
"""For each axis the conditions at its low and its high end; None: the grid's default."""


def boundaries_of(section: Any, dim: int) -> Boundaries | None:
    """The conditions of a section `physics.boundaries` of a config; None for None."""
    if section is None:
        return None

    def condition(side: Any) -> Condition | None:
        if side is None:
            return None
        if side.kind == "robin":
            return Robin(side.coefficient, side.value)
        return Dirichlet(side.value) if side.kind == "dirichlet" else Neumann(side.flux)

    return [
        None if axis is None else (condition(axis.low), condition(axis.high))
        for axis in section.axes[:dim]
    ]


def numbers_of(boundaries: Boundaries) -> dict[str, float]:
    """The numbers other than 0 in conditions, by their keys in a config."""
    return {
        f"boundaries.axis_{axis}.{end}.{key}": float(value)
        for axis, pair in enumerate(boundaries)
        for end, condition in zip(ENDS, pair or (), strict=False)
        for key, value in ({} if condition is None else vars(condition)).items()
        if isinstance(value, Real) and value != 0
    }
