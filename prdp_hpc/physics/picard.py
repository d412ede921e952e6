"""Implicit steps of advection by Picard iteration: the base class of Burgers and Navier–Stokes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Refinement, Solver, SparseOperator, solve
from prdp_hpc.physics.real_numbers import not_constant

VELOCITIES = ("velocity_x", "velocity_y", "velocity_z")
Gradient = Literal["full", "reduced"]


class PicardStepper(ABC):
    """One step `A(w) u⁺ = b(u)`, solved `picard_iterations` times with the wind w of the iteration
    before, initially that of u.

    The matrices differ between samples. `gradient`: "full" differentiates through the matrices and
    the right-hand side, "reduced" treats the matrices as constant.

    Raises
    ------
    ValueError
        For a viscosity below 0, dt ≤ 0, no iteration, or an unknown gradient.
    """

    def __init__(
        self,
        grid: Grid,
        viscosity: float,
        dt: float,
        solver: Solver,
        picard_iterations: int = 1,
        gradient: Gradient = "full",
    ) -> None:
        raise_together(grid.comm, _validate(viscosity, dt, picard_iterations, gradient))
        self.grid, self.solver = grid, solver
        self._viscosity, self._dt = float(viscosity), float(dt)
        self.picard_iterations, self.gradient = picard_iterations, gradient

    reference_pc: ClassVar[str] = "bjacobi"

    @classmethod
    def from_config(cls, section: Any, grid: Grid, solver: Solver) -> Self:
        """Make the stepper of a config's section `physics`; collective.

        Its keys are `viscosity`, `dt`, `picard_iterations` and `gradient`.
        """
        return cls(
            grid,
            section.viscosity,
            section.dt,
            solver,
            section.picard_iterations,
            section.gradient,
        )

    @classmethod
    def reference_solver(cls) -> Solver:
        """Return a solver for reference solutions; the matrices are not symmetric."""
        return Solver("gmres", cls.reference_pc, Refinement(rtol=1e-10))

    @property
    def scheme(self) -> str:
        """Description of the scheme, for the files of reference solutions."""
        return (
            f"backward Euler, first-order upwind, {self.picard_iterations} Picard iteration(s), "
            "linear solves to rtol 1e-10"
        )

    def attributes(self) -> dict[str, float]:
        """Return `dt` and `viscosity`, which data files must agree with."""
        return {"dt": self.dt, "viscosity": self.viscosity}

    @property
    def viscosity(self) -> float:
        """The viscosity ν; another one needs another stepper."""
        return self._viscosity

    @property
    def dt(self) -> float:
        """The time step; another one needs another stepper."""
        return self._dt

    @property
    @abstractmethod
    def channels(self) -> tuple[str, ...]:
        """Names of the channels of a state."""

    @property
    @abstractmethod
    def operator(self) -> SparseOperator:
        """The matrix of one solve."""

    @abstractmethod
    def values(self, wind: Tensor) -> Tensor:
        """Return the values `(B, nnz_local)` of the matrices for winds `(B, dim, *local_shape)`.

        Differentiable, collective.
        """

    @abstractmethod
    def _right(self, state: Tensor) -> Tensor:
        """The right-hand sides `(B R, n_local)`: R consecutive ones per sample."""

    def __call__(self, state: Tensor) -> Tensor:
        """Return the state `(B, C, *local_shape)` one step later.

        Differentiable; collective.
        """
        comm = self.grid.comm
        raise_together(comm, self._validate_state(state))
        # The solve detects this too, but only after halos have been exchanged.
        if comm.size > 1 and len(batches := set(comm.allgather(len(state)))) > 1:
            raise InputError(
                f"the ranks gave batches of different sizes ({min(batches)} … {max(batches)}): "
                "every rank must give the same"
            )
        return self._step(state)

    def _step(self, state: Tensor) -> Tensor:
        right, wind, start = self._right(state), state[:, : self.grid.dim], state
        for last in range(1 - self.picard_iterations, 1):
            # With constant matrices there is no gradient through the wind, so its solve need not
            # keep matrices.
            with torch.set_grad_enabled(
                torch.is_grad_enabled() and (self.gradient == "full" or last == 0)
            ):
                values = self.values(wind.detach() if self.gradient == "reduced" else wind)
                guess = self.solver.guess_of(start)
                guess = None if guess is None else guess.reshape(right.shape)
                result = solve(self.operator, values, right, self.solver, guess)
                result = start = result.reshape(state.shape)
            wind = result[:, : self.grid.dim]
        return result

    def _validate_state(self, state: Tensor) -> ValueError | None:
        if not isinstance(state, Tensor):
            return InputError(f"a state must be a tensor, not a {type(state).__name__}")
        expected = (len(self.channels), *self.grid.local_shape)
        if state.dim() != self.grid.dim + 2 or tuple(state.shape[1:]) != expected:
            return InputError(
                f"a state on this rank must have shape (B, {', '.join(map(str, expected))}) with "
                "the channels "
                f"{', '.join(self.channels)}, not {tuple(state.shape)}"
            )
        return None


def _validate(
    viscosity: float, dt: float, picard_iterations: int, gradient: str
) -> ValueError | None:
    for name, number in (("viscosity", viscosity), ("dt", dt)):
        error = not_constant(name, number)
        if error is not None:
            return error
    if not 0 <= viscosity < math.inf:
        return InputError(f"the viscosity must be finite and at least 0, not {viscosity!r}")
    if not 0 < dt < math.inf:
        return InputError(f"the time step dt must be positive and finite, not {dt!r}")
    if (
        isinstance(picard_iterations, bool)
        or not isinstance(picard_iterations, int)
        or picard_iterations < 1
    ):
        return InputError(
            f"picard_iterations must be an integer of at least 1, not {picard_iterations!r}"
        )
    if gradient not in ("full", "reduced"):
        return InputError(f"gradient must be 'full' or 'reduced', not {gradient!r}")
    return None
