"""The sides of a grid with their conditions: validation, values, and what they add to a system."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from prdp_hpc.autograd.transforms import numbers_of_all
from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.distributed.communicators import private
from prdp_hpc.errors import InputError
from prdp_hpc.grid.geometry import ENDS, End
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg.torch_petsc import in_double
from prdp_hpc.number_checks import is_number
from prdp_hpc.physics.boundaries import Boundaries, Condition, Dirichlet, Neumann, Robin, Value
from prdp_hpc.physics.real_numbers import has_real_numbers


@dataclass(frozen=True, eq=False)
class Side:
    """One end of an axis that is not periodic, with its condition.

    `face_shape`: the shape of this rank's part of the side. `wall`: the face coefficient of a
    Dirichlet or Neumann side as a multiple of κ / h² at the point next to it: 0 for a flux, 2 where
    the face is half a cell away.
    """

    grid: Grid
    axis: int
    end: End
    condition: Condition
    face_shape: tuple[int, ...]

    @property
    def place(self) -> tuple[int, End]:
        """The axis and the end."""
        return self.axis, self.end

    @property
    def name(self) -> str:
        """The name of the side, for messages."""
        return f"the {self.end} side of axis {self.axis}"

    @property
    def spacing(self) -> float:
        """The spacing of the points along the axis."""
        return self.grid.spacing[self.axis]

    @property
    def wall(self) -> float:
        """See above; 0 for a Robin condition, whose coefficient is not a multiple of κ."""
        if not isinstance(self.condition, Dirichlet):
            return 0.0
        return 1.0 if self.grid.boundary[self.axis] == "dirichlet" else 2.0

    @property
    def values(self) -> tuple[Value, ...]:
        """The values of the condition."""
        return tuple(vars(self.condition).values())

    @property
    def right_hand_side(self) -> Value:
        """The value of the condition that is part of the right-hand side."""
        condition = self.condition
        return condition.flux if isinstance(condition, Neumann) else condition.value

    def next_to(self, field: Tensor) -> Tensor:
        """A field's points next to the side, `(..., *face_shape)`; a number is unchanged."""
        if field.dim() == 0:
            return field
        along = self.axis - self.grid.dim
        n, width = field.shape[along], self.face_shape[self.axis]
        return field.narrow(along, 0 if self.end == "low" else n - width, width)

    def spread(self, face: Tensor) -> Tensor:
        """Values of the side at the points next to it, `(..., *local_shape)`; 0 elsewhere."""
        shape = torch.broadcast_shapes(face.shape, self.face_shape)
        face, along = face.expand(shape), self.axis - self.grid.dim
        rest = list(shape)
        rest[along] = self.grid.local_shape[self.axis] - shape[along]
        zeros = torch.zeros(rest, dtype=face.dtype, device=face.device)
        return torch.cat([face, zeros] if self.end == "low" else [zeros, face], dim=along)

    def evaluated(self, value: Value, time: float | Tensor | None) -> Tensor:
        """A value of the condition, float64: `()` or `(..., *face_shape)`; not collective.

        Raises InputError for a tensor of another shape, and for a function of the time without one.
        """
        found = self._called(value, time) if callable(value) else value
        if is_number(found):
            return torch.tensor(float(found), dtype=torch.float64)
        if not isinstance(found, Tensor) or not has_real_numbers(found):
            raise InputError(f"boundaries: a value of {self.name} {_not_a_value(found)}")
        if found.dim() == 0:
            return self.grid.replicated(in_double(found))
        wanted = self.face_shape
        if tuple(found.shape[-self.grid.dim :]) != wanted or not found.is_floating_point():
            raise InputError(
                f"boundaries: this rank's part of {self.name} has the shape {wanted} "
                f"(grid.face_shape({self.axis}, {self.end!r})): a value there must be a number, or "
                f"a floating-point tensor whose shape ends in it, not a {found.dtype} tensor of "
                f"shape {tuple(found.shape)}"
            )
        return in_double(found)

    def coefficient(self, time: float | Tensor | None) -> Tensor:
        """The coefficient of a Robin condition, see `evaluated`."""
        assert isinstance(self.condition, Robin)
        found = self.evaluated(self.condition.coefficient, time)
        if found.dim() > self.grid.dim:
            raise InputError(
                f"boundaries: the coefficient of {self.name} has leading axes {tuple(found.shape)}:"
                " it is part of the matrix, which all samples share; pass one of shape "
                f"{self.face_shape}"
            )
        numbers = numbers_of_all(found)
        if not bool(((numbers >= 0) & numbers.isfinite()).all()):
            raise InputError(
                f"boundaries: the coefficient of {self.name} must be finite and at least 0, on "
                f"this rank it is between {numbers.min().item():g} and {numbers.max().item():g}"
            )
        return found

    def _called(self, function: Callable[..., Any], time: float | Tensor | None) -> Any:
        coordinates = self.grid.face_coordinates(self.axis, self.end)
        if not _takes_time(function, self.grid.dim):
            return function(*coordinates)
        if time is None:
            raise InputError(
                f"boundaries: the function of {self.name} needs the time, but this call has none: "
                "pass time=…, or use a function of the coordinates only"
            )
        if not isinstance(time, Tensor):
            return function(*coordinates, time)
        # The numbers of this rank's points have a part of the time's gradient. One number for the
        # whole side has all of it, because `evaluated` sums the number's own.
        found = function(*coordinates, self.grid.replicated(time))
        is_number_of_side = isinstance(found, Tensor) and found.dim() == 0
        return function(*coordinates, time) if is_number_of_side else found


class SideConditions:
    """The conditions on all sides of a grid; collective.

    `error`: what the caller has found to be wrong on this rank; it is raised on all ranks together
    with errors of the conditions.

    Attributes
    ----------
    sides : all sides.
    robin : those with a Robin condition.
    are_homogeneous : whether no side adds anything to a right-hand side.

    Raises
    ------
    ValueError
        On all ranks, for conditions that the grid does not allow, or that differ between ranks.
    """

    def __init__(
        self, grid: Grid, boundaries: Boundaries | None = None, error: Exception | None = None
    ) -> None:
        self.grid = grid
        raise_together(grid.comm, error or _validate(grid, boundaries))
        self.sides = [
            Side(grid, axis, end, condition, grid.face_shape(axis, end))
            for axis, pair in enumerate(_completed(grid, boundaries))
            for end, condition in zip(ENDS, pair, strict=True)
            if condition is not None
        ]
        self.robin = [side for side in self.sides if isinstance(side.condition, Robin)]
        self.are_homogeneous = all(_is_zero(side.right_hand_side) for side in self.sides)
        if boundaries is not None and grid.comm.size > 1:
            given = self.kinds, [_number(value) for side in self.sides for value in side.values]
            if len(set(map(repr, private(grid.comm).agreement.allgather(given)))) > 1:
                raise InputError(
                    "boundaries: the ranks gave conditions of different kinds, or different numbers"
                )

    @property
    def kinds(self) -> tuple[tuple[int, str, str], ...]:
        """The kinds of the conditions, which the matrix depends on besides numbers."""
        return tuple((s.axis, s.end, type(s.condition).__name__) for s in self.sides)

    @property
    def constants(self) -> Literal["fixed", "by Robin", "free"]:
        """Whether the constant of a solution of Poisson's equation is fixed by a Dirichlet side, by
        Robin sides only (if a coefficient is not 0), or free.
        """
        if any(isinstance(side.condition, Dirichlet) for side in self.sides):
            return "fixed"
        return "by Robin" if self.robin else "free"

    def coefficients(self, time: float | Tensor | None) -> list[Tensor]:
        """The coefficients of the Robin sides; not collective."""
        return [side.coefficient(time) for side in self.robin]

    def right_hand_side(
        self, kappa: Tensor, time: float | Tensor | None, coefficients: Sequence[Tensor]
    ) -> Tensor | None:
        """The contributions of the sides to f in `−∇·(κ ∇u) = f`, `(..., *local_shape)`, for κ of
        shape `()` or `(..., *local_shape)`, and the `coefficients` of the Robin sides; None if all
        are homogeneous. Not collective; differentiable.
        """
        total, left = None, iter(coefficients)
        for side in self.sides:
            value, coefficient = side.right_hand_side, None
            if isinstance(side.condition, Robin):
                coefficient = next(left).to(kappa.device)
            if _is_zero(value):
                continue
            given = side.evaluated(value, time).to(kappa.device)
            part = side.spread(self._weight(side, kappa, coefficient) * given)
            total = part if total is None else total + part
        return total

    def _weight(self, side: Side, kappa: Tensor, coefficient: Tensor | None) -> Tensor:
        """The factor of a side's value in the right-hand side; Robin sides have a coefficient."""
        h, near = side.spacing, side.next_to(kappa)
        if isinstance(side.condition, Dirichlet):
            return side.wall * near / h**2
        if coefficient is None:
            return torch.tensor(1.0 / h, dtype=torch.float64, device=kappa.device)
        return 2.0 * near / (coefficient * h + 2.0 * near) / h


def _is_zero(value: Value) -> bool:
    return is_number(value) and value == 0


def _number(value: Value) -> float | None:
    return float(value) if is_number(value) else None


def _completed(
    grid: Grid, boundaries: Boundaries | None
) -> list[tuple[Condition | None, Condition | None]]:
    """A condition for each side, None for periodic axes."""
    usual: dict[str, Condition | None] = {"dirichlet": Dirichlet(), "neumann": Neumann()}
    pairs = []
    for axis, kind in enumerate(grid.boundary):
        given = (None if boundaries is None else boundaries[axis]) or (None, None)
        low, high = (usual.get(kind) if side is None else side for side in given)
        pairs.append((low, high))
    return pairs


def _validate(grid: Grid, boundaries: Boundaries | None) -> InputError | None:
    if boundaries is None:
        return None
    if isinstance(boundaries, str) or not isinstance(boundaries, Sequence):
        return InputError(
            f"boundaries must be a list with one pair (low, high) per axis, not {boundaries!r}"
        )
    if len(boundaries) != grid.dim:
        return InputError(
            f"boundaries has {len(boundaries)} entries for {grid.dim} axes: pass a pair (low, high)"
            " per axis, or None"
        )
    for axis, pair in enumerate(boundaries):
        if pair is None:
            continue
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            return InputError(
                f"boundaries[{axis}] must be a pair (low, high) of conditions, or None, not "
                f"{pair!r}"
            )
        for end, condition in zip(ENDS, pair, strict=True):
            text = _validate_condition(grid, axis, condition)
            if text is not None:
                return InputError(f"boundaries: the {end} side of axis {axis} {text}")
    return None


def _validate_condition(grid: Grid, axis: int, condition: Any) -> str | None:
    if condition is None:
        return None
    if not isinstance(condition, Condition):
        return f"needs Dirichlet(…), Neumann(…) or Robin(…), not {condition!r}"
    for value in vars(condition).values():
        if not (callable(value) or is_number(value) or isinstance(value, Tensor)):
            return f"has a value that {_not_a_value(value)}"
    if grid.boundary[axis] == "periodic":
        return "does not exist: the axis is periodic; use None for this axis"
    if grid.boundary[axis] == "dirichlet" and not isinstance(condition, Dirichlet):
        return (
            f"has grid points that allow Dirichlet values only, not {type(condition).__name__}: "
            "use cell centres for the axis, Grid(boundary='neumann'), which allow all conditions"
        )
    return None


def _not_a_value(value: Any) -> str:
    what = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
    return f"must be a real number, a tensor of them, or a function that returns one, not {what}"


def _takes_time(function: Callable[..., Any], dim: int) -> bool:
    """Whether a function has one more argument than the coordinates; not for `*coordinates`."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions written in C
        return False
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return False
    try:
        signature.bind(*range(dim + 1))
    except TypeError:
        return False
    return True
