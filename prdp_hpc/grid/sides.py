"""The sides of a grid: the two ends of each axis that is not periodic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from prdp_hpc.errors import InputError

if TYPE_CHECKING:
    from prdp_hpc.grid.structured import Grid

End = Literal["low", "high"]
ENDS: tuple[End, End] = ("low", "high")


def face_shape(grid: Grid, axis: int, end: End) -> tuple[int, ...]:
    """The shape of this rank's part of a side: `local_shape`, with 1 along `axis` if the rank
    touches the side, else 0.

    Raises
    ------
    ValueError
        For a side that does not exist.
    """
    own = grid.local_slices[_checked(grid, axis, end)]
    touches = own.start == 0 if end == "low" else own.stop == grid.shape[axis]
    return tuple(int(touches) if d == axis else n for d, n in enumerate(grid.local_shape))


def face_coordinates(grid: Grid, axis: int, end: End) -> tuple[Tensor, ...]:
    """Coordinates of this rank's points of a side, one float64 tensor of `face_shape` per axis."""
    shape = face_shape(grid, axis, end)
    place = 0.0 if end == "low" else grid.length[axis]
    axes = [
        torch.full((shape[d],), place, dtype=torch.float64)
        if d == axis
        else torch.from_numpy(grid.axis_points(d)[part])
        for d, part in enumerate(grid.local_slices)
    ]
    return tuple(torch.meshgrid(*axes, indexing="ij"))


def _checked(grid: Grid, axis: int, end: End) -> int:
    if not 0 <= axis < grid.dim or end not in ENDS:
        raise InputError(
            f"a side needs an axis from 0 to {grid.dim - 1} and an end, 'low' or 'high', not axis "
            f"{axis!r} and end {end!r}"
        )
    if grid.boundary[axis] == "periodic":
        raise InputError(f"axis {axis} is periodic and has no sides")
    return axis
