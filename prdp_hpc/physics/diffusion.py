"""The diffusion operator `−∇·(κ ∇u)` on a grid: what Poisson and heat share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Solver, SparseOperator, solve
from prdp_hpc.linalg.torch_petsc import in_double
from prdp_hpc.petsc import PETSc
from prdp_hpc.physics.shifts import moved


@dataclass(frozen=True)
class _Side:
    """One side of every point along one axis."""

    position: int  # among a row's entries
    shift: tuple[slice, ...]  # from an array with one halo layer to the neighbours on this side
    inside: Tensor  # whether the neighbour is a point of the grid, flat
    wall: float  # face coefficient at a boundary, as a multiple of the point's diffusivity
    per_area: float  # 1 / h²


class DiffusionStencil:
    """Second-order central differences of `mass · u − scale · ∇·(κ ∇u)` as a `SparseOperator`.

    Between two points κ is the mean of both; at a Dirichlet boundary the point's own; at a Neumann
    boundary the flux is 0. The truncation error is O(h²) for smooth κ.

    Each row's entries stand together and in the order of their columns: PETSc sorts the pattern,
    and so it is sorted already where one rank has the grid.
    """

    def __init__(self, grid: Grid, constant_nullspace: bool) -> None:
        self.grid = grid
        numbers = grid.numbering
        own = numbers[(slice(1, -1),) * grid.dim].reshape(-1)
        neighbours = np.empty((own.size, 2 * grid.dim + 1), dtype=PETSc.IntType)
        neighbours[:, grid.dim] = own
        self._sides = []
        for axis in range(grid.dim):
            wall = 1.0 if grid.boundary[axis] == "dirichlet" else 0.0
            for step, position in ((-1, axis), (1, 2 * grid.dim - axis)):
                shift = moved(grid.dim, {axis: step})
                neighbours[:, position] = numbers[shift].reshape(-1)
                inside = torch.from_numpy(neighbours[:, position] >= 0)
                self._sides.append(
                    _Side(position, shift, inside, wall, 1.0 / grid.spacing[axis] ** 2)
                )
        present = neighbours >= 0
        self._present = torch.from_numpy(present)
        self.operator = SparseOperator(
            np.repeat(own, present.sum(axis=1)),
            neighbours[present],
            (grid.size, grid.size),
            grid.comm,
            symmetric=True,
            grid=grid,
            constant_nullspace=constant_nullspace,
        )
        # Both entries of a face are the same number, and each row's add up to the mass.
        self.operator.promises_hold = True

    def values(self, diffusivity: Tensor, mass: float, scale: float) -> Tensor:
        """The operator's values for a diffusivity of shape `()` or `local_shape`; differentiable,
        collective.
        """
        if diffusivity.dim() == 0:
            values = self._unit_values * (diffusivity * scale)
            return values + mass * self._identity if mass else values
        own = diffusivity.reshape(-1)
        padded = self.grid.halo(diffusivity)
        entries = [torch.empty(0)] * (2 * self.grid.dim + 1)
        diagonal = torch.full_like(own, mass)
        for side in self._sides:
            between = 0.5 * (own + padded[side.shift].reshape(-1))
            face = torch.where(side.inside, between, side.wall * own) * (scale * side.per_area)
            diagonal = diagonal + face
            entries[side.position] = -face
        entries[self.grid.dim] = diagonal
        return torch.stack(entries, dim=-1)[self._present]

    @cached_property
    def _unit_values(self) -> Tensor:
        """The values for κ = 1, mass 0 and scale 1: those for any number κ are a multiple of
        them.
        """
        row = torch.empty(2 * self.grid.dim + 1, dtype=torch.float64)
        for side in self._sides:
            row[side.position] = -side.per_area
        row[self.grid.dim] = sum(side.per_area for side in self._sides)
        entries = row.repeat(self._present.shape[0], 1)
        for side in self._sides:
            if side.wall == 0.0:
                entries[~side.inside, self.grid.dim] -= side.per_area
        return entries[self._present]

    @cached_property
    def _identity(self) -> Tensor:
        entries = torch.zeros(self._present.shape, dtype=torch.float64)
        entries[:, self.grid.dim] = 1.0
        return entries[self._present]


class DiffusionStepper:
    """Base of the steppers: a stencil, its values for the diffusivity, and the solve on fields."""

    def __init__(
        self,
        grid: Grid,
        diffusivity: float | Tensor,
        solver: Solver,
        mass: float,
        scale: float,
        constant_nullspace: bool = False,
    ) -> None:
        self.grid, self.solver = grid, solver
        self._mass, self._scale = mass, scale
        self._stencil = DiffusionStencil(grid, constant_nullspace)
        self.diffusivity = diffusivity  # type: ignore[assignment]

    @property
    def operator(self) -> SparseOperator:
        """The matrix of one solve."""
        return self._stencil.operator

    @property
    def diffusivity(self) -> Tensor:
        """κ: shape `()` or `local_shape`, float64. Set a float, or a tensor with or without
        gradient.
        """
        return self._diffusivity

    @diffusivity.setter
    def diffusivity(self, value: float | Tensor) -> None:
        kappa = (
            value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)
        )
        raise_together(self.grid.comm, _wrong_diffusivity(kappa, self.grid))
        self._diffusivity = kappa
        self._values: Tensor | None = None
        self._seen: Tensor | None = None

    def values(self) -> Tensor:
        """The matrix values; computed anew only if κ changed or needs a gradient. Collective."""
        return self._values_after(None)

    def _values_after(self, error: Exception | None) -> Tensor:
        """The same, or an error on all ranks where one has one: with one reduction.

        κ is compared number by number with a copy, so that every change is noticed; and it changed
        for all ranks if it did for one, since its halo is exchanged.
        """
        kappa = self._diffusivity
        stale = kappa.requires_grad or self._seen is None or not torch.equal(self._seen, kappa)
        if stale and error is None:
            error = _wrong_diffusivity(kappa, self.grid)
        stale = _agree(self.grid.comm, error, stale)
        if self._values is not None and not stale:
            return self._values
        shared = self.grid.replicated(kappa) if kappa.dim() == 0 else kappa
        # Values kept for later must not be inference tensors, which training could not use. Leaving
        # inference mode would switch gradients on.
        recording = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(recording):
            if shared.is_inference():
                shared = shared.clone()
            values = self._stencil.values(in_double(shared), self._mass, self._scale)
            self._values, self._seen = None, None
            if not kappa.requires_grad:
                self._values, self._seen = values, kappa.clone()
        return values

    def _solve(self, right: Tensor, state: Tensor | None = None) -> Tensor:
        shape, error = right.shape, None
        if tuple(shape[-self.grid.dim :]) != self.grid.local_shape:
            wanted = self.grid.local_shape
            error = InputError(
                f"a field on this rank must end in the grid's local shape {wanted}, this one has "
                f"{tuple(shape)}"
            )
        values = self._values_after(error)
        fields = math.prod(shape[: -self.grid.dim])
        guess = None if state is None else self.solver.guess_of(state)
        rows = (fields, self.grid.n_local)
        return solve(
            self.operator,
            values,
            right.reshape(rows),
            self.solver,
            None if guess is None else guess.expand(shape).reshape(rows),
        ).reshape(shape)


def _agree(comm: MPI.Comm, error: Exception | None, flag: bool) -> bool:
    """Whether the flag is set on any rank; an error on all ranks if one has one. Collective."""
    if comm.size > 1:
        flags = np.array([error is not None, flag])
        comm.Allreduce(MPI.IN_PLACE, flags, op=MPI.LOR)
        if not flags[0]:
            return bool(flags[1])
    raise_together(comm, error)
    return flag


def _wrong_diffusivity(kappa: Tensor, grid: Grid) -> ValueError | None:
    if not kappa.is_floating_point() or tuple(kappa.shape) not in ((), grid.local_shape):
        return InputError(
            "diffusivity must be a number, a tensor of shape (), or this rank's field of shape "
            f"{grid.local_shape}, "
            f"not a {kappa.dtype} tensor of shape {tuple(kappa.shape)}"
        )
    if not bool(((kappa.detach() > 0) & kappa.detach().isfinite()).all()):
        low, high = kappa.min().item(), kappa.max().item()
        return InputError(
            "diffusivity must be positive and finite everywhere, on this rank it reaches from "
            f"{low:g} to {high:g}"
        )
    return None
