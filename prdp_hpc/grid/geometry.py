"""Where the points of a structured grid are, and where its sides are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.errors import InputError
from prdp_hpc.grid.partition import BOUNDARIES, Boundary
from prdp_hpc.number_checks import is_integer, is_number

End = Literal["low", "high"]
ENDS: tuple[End, End] = ("low", "high")
"""The two ends of an axis; if it is not periodic, each is a side of the grid."""


class GridGeometry:
    """Points and sides of a grid and of this rank's part of it; see `Grid`."""

    shape: tuple[int, ...]
    boundary: tuple[Boundary, ...]
    length: tuple[float, ...]
    spacing: tuple[float, ...]
    local_shape: tuple[int, ...]
    local_slices: tuple[slice, ...]
    dim: int
    size: int
    is_singular: bool

    def __init__(
        self,
        shape: Sequence[int],
        boundary: Boundary | Sequence[Boundary],
        length: float | Sequence[float],
    ) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dim, self.size = len(self.shape), math.prod(self.shape)
        self.boundary = per_axis(boundary, self.dim)
        self.length = tuple(map(_as_float, per_axis(length, self.dim)))
        self.is_singular = "dirichlet" not in self.boundary
        self.spacing = tuple(
            a / (n + 1) if b == "dirichlet" else a / n
            for a, n, b in zip(self.length, self.shape, self.boundary, strict=True)
        )

    def axis_points(self, axis: int) -> NDArray[np.float64]:
        """Return the coordinates of all points of one axis.

        Parameters
        ----------
        axis : int
            The axis, from 0.

        Returns
        -------
        ndarray
            Coordinates, float64, shape `(shape[axis],)`.
        """
        offset = {"dirichlet": 1.0, "neumann": 0.5, "periodic": 0.0}[self.boundary[axis]]
        return (np.arange(self.shape[axis], dtype=np.float64) + offset) * self.spacing[axis]

    def unit_axes(self) -> list[NDArray[np.float64]]:
        """Return the coordinates of all points along each axis, divided by its length.

        Returns
        -------
        list of ndarray
            Per axis the coordinates between 0 and 1, float64, shape `(shape[axis],)`.
        """
        return [self.axis_points(axis) / self.length[axis] for axis in range(self.dim)]

    def coordinates(self) -> tuple[Tensor, ...]:
        """Return the coordinates of this rank's points.

        Returns
        -------
        tuple of Tensor
            One float64 tensor per axis, each of shape `local_shape`.
        """
        axes = [
            torch.from_numpy(self.axis_points(d)[part]) for d, part in enumerate(self.local_slices)
        ]
        return tuple(torch.meshgrid(*axes, indexing="ij"))

    def face_shape(self, axis: int, end: End) -> tuple[int, ...]:
        """Return the shape of this rank's part of a side.

        Parameters
        ----------
        axis : int
            The axis, from 0.
        end : {"low", "high"}
            The end of the axis.

        Returns
        -------
        tuple of int
            `local_shape` with 1 along `axis`, or 0 if this rank does not touch the side.

        Raises
        ------
        InputError
            For a side that does not exist.
        """
        own = self.local_slices[self._checked(axis, end)]
        touches = own.start == 0 if end == "low" else own.stop == self.shape[axis]
        return tuple(int(touches) if d == axis else n for d, n in enumerate(self.local_shape))

    def face_coordinates(self, axis: int, end: End) -> tuple[Tensor, ...]:
        """Return the coordinates of this rank's points of a side.

        Parameters
        ----------
        axis : int
            The axis, from 0.
        end : {"low", "high"}
            The end of the axis.

        Returns
        -------
        tuple of Tensor
            One float64 tensor per axis, each of shape `face_shape(axis, end)`.
        """
        shape = self.face_shape(axis, end)
        place = 0.0 if end == "low" else self.length[axis]
        axes = [
            torch.full((shape[d],), place, dtype=torch.float64)
            if d == axis
            else torch.from_numpy(self.axis_points(d)[part])
            for d, part in enumerate(self.local_slices)
        ]
        return tuple(torch.meshgrid(*axes, indexing="ij"))

    def _checked(self, axis: int, end: End) -> int:
        """The axis, if it has a side at this end."""
        if axis not in range(self.dim) or end not in ENDS:
            raise InputError(
                f"a side needs an axis from 0 to {self.dim - 1} and an end, 'low' or 'high', not "
                f"axis {axis!r} and end {end!r}"
            )
        if self.boundary[axis] == "periodic":
            raise InputError(f"axis {axis} is periodic and has no sides")
        return axis


def _as_float(length: Any) -> float:
    """A length as a float; NaN if it is not one real number."""
    if isinstance(length, Tensor):
        length = length.detach().item() if length.numel() == 1 else None
    return float(length) if is_number(length) else math.nan


def validate_geometry(
    shape: Sequence[int], boundary: Boundary | Sequence[Boundary], length: float | Sequence[float]
) -> ValueError | None:
    """The error for a grid that cannot be made, or None."""
    if (
        not isinstance(shape, Sequence)
        or not 1 <= len(shape) <= 3
        or not all(is_integer(n) and int(n) >= 2 for n in shape)
    ):
        return InputError(
            f"a grid's shape must be a list of 1 to 3 integers of at least 2, not {shape!r}"
        )
    boundaries, lengths = per_axis(boundary, len(shape)), per_axis(length, len(shape))
    if len(boundaries) != len(shape) or any(b not in BOUNDARIES for b in boundaries):
        return InputError(
            f"boundary must be one of {BOUNDARIES}, or one of them for each of {len(shape)} axes, "
            f"not {boundary!r}"
        )
    if any(isinstance(a, Tensor) and a.requires_grad for a in lengths):
        return InputError(
            "there is no gradient with respect to length: pass a number, or length.detach()"
        )
    if len(lengths) != len(shape) or any(not 0 < _as_float(a) < math.inf for a in lengths):
        return InputError(
            f"length must be positive and finite, one number or one for each of {len(shape)} axes, "
            f"not {length!r}"
        )
    return None


def per_axis(value: Any, dim: int) -> tuple[Any, ...]:
    """One value per axis, from one for all axes or one per axis."""
    is_one = isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable)
    is_one = is_one or getattr(value, "ndim", 1) == 0
    return (value,) * dim if is_one else tuple(value)
