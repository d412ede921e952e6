"""Solves with the diffusion operator `−∇·(κ ∇u)` on a grid, for Poisson and heat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.autograd.transforms import numbers_of_all
from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.errors import InputError
from prdp_hpc.grid.partition import not_a_field
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Solver, SparseOperator, solve
from prdp_hpc.linalg.torch_petsc import in_double, is_real_tensor, like
from prdp_hpc.physics.boundaries import Boundaries
from prdp_hpc.physics.diffusion_stencil import DiffusionStencil, FaceMean
from prdp_hpc.physics.real_numbers import not_one_number
from prdp_hpc.physics.side_conditions import SideConditions


class DiffusionStepper:
    """Base class of linear diffusion: stencil, values, conditions on the sides, and the solve.

    One solve is `(mass − scale ∇·κ∇) u = right`, plus the contributions of the sides.
    """

    def __init__(
        self,
        grid: Grid,
        diffusivity: float | Tensor,
        solver: Solver,
        mass: float,
        boundaries: Boundaries | None = None,
        face_mean: FaceMean = "arithmetic",
    ) -> None:
        self.grid, self.solver = grid, solver
        self._mass = mass
        kappa = _as_tensor(diffusivity)
        error = _validate_mean(face_mean) or _validate_diffusivity(kappa, grid)
        conditions = SideConditions(grid, boundaries, error)
        singular = mass == 0.0 and conditions.constants == "free"
        self._stencil = DiffusionStencil(grid, singular, conditions, face_mean)
        self._set_diffusivity(kappa)

    @property
    def operator(self) -> SparseOperator:
        """The matrix of one solve."""
        return self._stencil.operator

    @property
    def face_mean(self) -> FaceMean:
        """The mean of κ at faces."""
        return self._stencil.face_mean

    @property
    def boundaries(self) -> Boundaries:
        """The conditions on the sides, per axis (low, high).

        They can be replaced by conditions of the same kinds with other values; collective.
        """
        pairs: list[Any] = [(None, None)] * self.grid.dim
        sides = self._stencil.conditions.sides
        for low, high in zip(sides[::2], sides[1::2], strict=True):
            pairs[low.axis] = (low.condition, high.condition)
        return pairs

    @boundaries.setter
    def boundaries(self, boundaries: Boundaries) -> None:
        conditions = SideConditions(self.grid, boundaries)
        if conditions.kinds != self._stencil.conditions.kinds:
            raise InputError(
                "boundaries: the new conditions are of other kinds, which need another matrix: "
                f"make another {type(self).__name__}"
            )
        self._stencil.conditions = conditions

    @property
    def diffusivity(self) -> Tensor:
        """The diffusivity κ, a float64 tensor of shape `()`, `local_shape` or `(M, *local_shape)`.

        The last has one field per sample. It can be set to a float, or a tensor with or without
        gradient.
        """
        return self._diffusivity

    @diffusivity.setter
    def diffusivity(self, value: float | Tensor) -> None:
        kappa = _as_tensor(value)
        raise_together(self.grid.comm, _validate_diffusivity(kappa, self.grid))
        self._set_diffusivity(kappa)

    def _set_diffusivity(self, kappa: Tensor) -> None:
        self._diffusivity = kappa
        self._values: Tensor | None = None
        self._seen: list[Tensor] = []

    def values(
        self, time: float | Tensor | None = None, device: torch.device | None = None
    ) -> Tensor:
        """Return the matrix values on a device, by default that of κ.

        They are computed again only if κ or a Robin coefficient has changed or needs a gradient.
        Collective.
        """
        error: Exception | None = None
        coefficients: list[Tensor] = []
        try:
            coefficients = self._stencil.conditions.coefficients(time)
        except Exception as own:
            error = own
        return self._values_after(
            error, coefficients, self._diffusivity.device if device is None else device
        )

    def _values_after(
        self, error: Exception | None, coefficients: list[Tensor], device: torch.device
    ) -> Tensor:
        """The values for these Robin coefficients, or an error on all ranks where one has one: with
        one reduction.

        The inputs of the values are compared number by number with a copy, so that every change is
        detected. A change on one rank counts as a change on all ranks, because the halo of κ is
        exchanged.
        """
        kappa, conditions = self._diffusivity, self._stencil.conditions
        made_from = [kappa, *self._scale_tensor, *coefficients]
        stale = not _same(made_from, self._seen)
        stale = stale or self._values is None or self._values.device != device
        if stale and error is None:
            error = _validate_diffusivity(kappa, self.grid) or self._validate_numbers()
        needs_robin = self._mass == 0.0 and conditions.constants == "by Robin"
        fixed = not needs_robin or any(bool((a.detach() > 0).any()) for a in coefficients)
        stale, fixed = _agree(self.grid.comm, error, stale, fixed)
        if not fixed:
            raise InputError(
                "boundaries: the coefficients of all Robin sides are 0, and no other side fixes "
                "the constant of the solution: use a Dirichlet side, a coefficient above 0, or "
                "Neumann(flux) sides only, for which the solution with mean 0 is returned"
            )
        if self._values is not None and not stale:
            return self._values
        shared = self.grid.replicated(kappa) if kappa.dim() == 0 else kappa
        # Stored values must not be inference tensors, which cannot be used in training. Leaving
        # inference mode would enable gradients, so their setting is restored.
        recording = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(recording):
            usable = [t.clone() if t.is_inference() else t for t in (shared, *coefficients)]
            kappa, *rest = (in_double(t, device) for t in usable)
            scale = self._shared(self._scale, device)
            values = self._stencil.values(kappa, self._mass, scale, rest)
            self._values, self._seen = None, []
            if not any(t.requires_grad for t in made_from):
                self._values, self._seen = values, [t.clone() for t in made_from]
        return values

    @property
    def _scale(self) -> float | Tensor:
        """The factor of the diffusion operator in the matrix. It is computed at each use, because a
        time step may be changed in place, and each backward pass needs a separate graph.
        """
        return 1.0

    def _validate_numbers(self) -> InputError | None:
        """The error for invalid numbers besides κ, which may have been changed in place."""
        return None

    @property
    def _scale_tensor(self) -> list[Tensor]:
        scale = self._scale
        return [scale] if isinstance(scale, Tensor) else []

    def _shared(self, number: float | Tensor, device: torch.device) -> float | Tensor:
        """A number that is replicated on the ranks, for use with their parts of fields."""
        if not isinstance(number, Tensor):
            return number
        return self.grid.replicated(in_double(number, device))

    def _solve(
        self,
        right: Tensor,
        time: float | Tensor | None = None,
        state: Tensor | None = None,
        error: Exception | None = None,
    ) -> Tensor:
        given = right.device if isinstance(right, Tensor) else torch.device("cpu")
        operator = self.operator
        device, whole = self.solver.device_for(operator, given), right
        coefficients: list[Tensor] = []
        if error is None:
            try:
                # Once, because a function of the user may return other numbers the next time.
                coefficients = self._stencil.conditions.coefficients(time)
                whole = self._with_sides(right, time, coefficients, device)
            except Exception as own:
                error = own
        values = self._values_after(error, coefficients, device)
        fields = math.prod(whole.shape[: -self.grid.dim])
        rows = (fields, self.grid.n_local)
        guess = None if state is None else self.solver.guess_of(state)
        if guess is not None:
            guess = guess.expand(whole.shape).reshape(rows)
        x = solve(operator, values, whole.reshape(rows), self.solver, guess)
        return like(x.reshape(whole.shape), right)

    def _with_sides(
        self,
        right: Tensor,
        time: float | Tensor | None,
        coefficients: list[Tensor],
        device: torch.device,
    ) -> Tensor:
        """The right-hand side with the contributions of the sides; not collective."""
        dim, kappa = self.grid.dim, self._diffusivity
        if not is_real_tensor(right):
            raise not_a_field(right)
        if tuple(right.shape[-dim:]) != self.grid.local_shape:
            raise InputError(
                "a field on this rank must end in the grid's local shape "
                f"{self.grid.local_shape}, this one has {tuple(right.shape)}"
            )
        if kappa.dim() > dim:
            samples = len(kappa)
            if right.dim() == dim:
                right = right.expand(samples, *right.shape)
            if len(right) != samples:
                raise InputError(
                    f"diffusivity has {samples} fields, one per sample, but the right-hand "
                    f"side has {len(right)} samples (shape {tuple(right.shape)})"
                )
            leading = (samples, *(1,) * (right.dim() - dim - 1))
            kappa = kappa.reshape(*leading, *self.grid.local_shape)
        conditions = self._stencil.conditions
        if conditions.are_homogeneous:
            return right
        if kappa.dim() == 0:
            kappa = self.grid.replicated(kappa)
        added = conditions.right_hand_side(in_double(kappa, device), time, coefficients)
        assert added is not None
        whole = in_double(right, device) + self._shared(self._scale, device) * added
        if self._diffusivity.dim() > dim and len(whole.shape) > len(right.shape):
            raise InputError(
                f"boundaries: values with the leading axes {tuple(added.shape[:-dim])} do not "
                f"match {samples} samples with a diffusivity each"
            )
        return whole


def _same(tensors: Sequence[Tensor], seen: Sequence[Tensor]) -> bool:
    """Whether values that were made from `seen` are valid for `tensors`, without gradients."""
    return len(tensors) == len(seen) and all(
        not t.requires_grad and torch.equal(s, t) for t, s in zip(tensors, seen, strict=True)
    )


def _agree(comm: MPI.Comm, error: Exception | None, *own: bool) -> tuple[bool, ...]:
    """Whether each flag is set on any rank; an error of one rank is raised on all. Collective."""
    if comm.size > 1:
        flags = np.array([error is not None, *own])
        comm.Allreduce(MPI.IN_PLACE, flags, op=MPI.LOR)
        if flags[0]:
            raise_together(comm, error)
        return tuple(map(bool, flags[1:]))
    if error is not None:
        raise error
    return own


def _as_tensor(value: float | Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value
    error = not_one_number("the diffusivity", value)
    if error is not None:
        raise error
    return torch.tensor(float(value), dtype=torch.float64)


def _validate_mean(face_mean: str) -> InputError | None:
    if face_mean in get_args(FaceMean):
        return None
    return InputError(f"face_mean must be 'arithmetic' or 'harmonic', not {face_mean!r}")


def _validate_diffusivity(kappa: Tensor, grid: Grid) -> ValueError | None:
    fits = kappa.dim() <= grid.dim + 1 and tuple(kappa.shape[-grid.dim :]) == grid.local_shape
    if not kappa.is_floating_point() or not (fits or kappa.dim() == 0):
        return InputError(
            "diffusivity must be a number, a tensor of shape (), or this rank's field of shape "
            f"{grid.local_shape}, or one field per sample, (M, *{grid.local_shape}), "
            f"not a {kappa.dtype} tensor of shape {tuple(kappa.shape)}"
        )
    if not kappa.numel():
        return None
    # One pass without a temporary; NaN is both bounds then, and in no range.
    low, high = (bound.item() for bound in numbers_of_all(kappa).aminmax())
    if not (low > 0.0 and high < math.inf):
        return InputError(
            "diffusivity must be positive and finite everywhere, but on this rank it is between "
            f"{low:g} and {high:g}"
        )
    return None
