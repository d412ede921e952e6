"""Implicit steps of nonlinear PDEs by Newton's method: their base class."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from prdp_hpc.distributed.collective import call_together, raise_together
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import NonlinearSolver, Solver, solve_nonlinear
from prdp_hpc.linalg.nonlinear.solve import GivenJacobian
from prdp_hpc.physics.boundaries import Boundaries, numbers_of
from prdp_hpc.physics.face_fluxes import FaceFluxes
from prdp_hpc.physics.real_numbers import as_float, validate_dt
from prdp_hpc.physics.side_conditions import SideConditions


class NewtonKeys(Protocol):
    """The keys of a section `newton` of a config; see `prdp_hpc.config.physics.NewtonSection`."""

    @property
    def refines(self) -> str:
        """Which level the coordinator changes."""
        ...

    @property
    def level(self) -> int | float:
        """The level of Newton's method, if the coordinator does not change it."""
        ...

    @property
    def inner(self) -> int | float | Literal["eisenstat_walker"]:
        """The level of the linear solves, if the coordinator does not change it."""
        ...


def newton_solver(solver: Solver | NonlinearSolver, keys: NewtonKeys) -> NonlinearSolver:
    """The nonlinear solver of a section `newton` around the linear solver of a config.

    The level of the linear solver is used for the quantity that is refined. A nonlinear solver,
    e.g. that of reference solutions, is returned unchanged.
    """
    if isinstance(solver, NonlinearSolver):
        return solver
    if keys.refines == "inner":
        return NonlinearSolver(solver, keys.level, refines="inner")
    return NonlinearSolver(solver, solver.refinement, inner=keys.inner)


class NewtonStepper(ABC):
    """One step of backward Euler, `F(u⁺, u) = 0`, for fields of one channel.

    A subclass defines `residual(u, old, dt, *parameters, sides)` on `(b, 1, *local_shape)`, and
    `jacobian`; `sides` are the values of `FaceFluxes.side_numbers`.

    Raises
    ------
    ValueError
        For a time step that is not positive and finite, or a solver that is not a
        `NonlinearSolver`.
    """

    channels: tuple[str, ...] = ("u",)
    channelwise = True
    residual: Callable[..., Tensor]

    def __init__(
        self,
        grid: Grid,
        dt: float | Tensor,
        solver: NonlinearSolver,
        boundaries: Boundaries | None = None,
    ) -> None:
        self.grid, self.solver, self._dt = grid, solver, dt
        raise_together(grid.comm, self.validate_numbers() or validate_solver(solver))
        self.boundaries = boundaries or [None] * grid.dim
        self.fluxes = FaceFluxes(grid, SideConditions(grid, boundaries))

    @property
    def dt(self) -> float | Tensor:
        """The time step; a tensor may be changed in place."""
        return self._dt

    def validate_numbers(self) -> InputError | None:
        """The error for an invalid number, which may have been changed in place, or None."""
        return validate_dt(self._dt)

    def attributes(self) -> dict[str, float]:
        """Return `dt` and the numbers on the sides, which data files must agree with."""
        return {"dt": as_float(self.dt), **numbers_of(self.boundaries)}

    @property
    @abstractmethod
    def jacobian(self) -> GivenJacobian:
        """The Jacobian of the residual, as an argument of `solve_nonlinear`."""

    def _step(self, state: Tensor, parameters: Sequence[Any] = ()) -> Tensor:
        """The state one step later; Newton's method starts at the state. Channels are separate."""
        fields = self._fields(state)
        dt = replicated(self.grid, self._dt)
        parameters = (dt, *parameters, self.side_numbers(self.validate_numbers()))
        stepped = solve_nonlinear(
            self.residual,
            fields,
            (fields, *parameters),
            self.solver,
            jacobian=self.jacobian,
            grid=self.grid,
            per_sample=(True, *(False for _ in parameters)),
        )
        return stepped.reshape(state.shape)

    def side_numbers(self, error: InputError | None = None) -> list[tuple[Tensor, ...]]:
        """Return the residual's last parameter.

        An error in conditions, or this one of the caller, is raised on all ranks.
        """

        def checked() -> list[tuple[Tensor, ...]]:
            if error is not None:
                raise error
            return self.fluxes.side_numbers()

        return call_together(self.grid.comm, checked)

    def _fields(self, state: Tensor) -> Tensor:
        """All fields of a batch as samples of one channel; collective."""
        local, error = self.grid.local_shape, None
        if not isinstance(state, Tensor):
            error = InputError(f"a field must be a tensor, not a {type(state).__name__}")
        elif tuple(state.shape[-self.grid.dim :]) != local:
            error = InputError(
                f"a field on this rank must end in the grid's local shape {local}, this one has "
                f"{tuple(state.shape)}"
            )
        raise_together(self.grid.comm, error)
        return state.reshape(math.prod(state.shape[: -self.grid.dim]), 1, *local)


def validate_solver(solver: Any) -> InputError | None:
    """The error for a solver that is not a `NonlinearSolver`, or None."""
    if isinstance(solver, NonlinearSolver):
        return None
    return InputError(
        "this PDE is nonlinear: its solver must be a NonlinearSolver(Solver(...)), not a "
        f"{type(solver).__name__}"
    )


def replicated(grid: Grid, number: float | Tensor) -> Tensor:
    """A replicated number in double precision, whose gradient is summed over the ranks."""
    if not isinstance(number, Tensor):
        return torch.tensor(float(number), dtype=torch.float64)
    return grid.replicated(number)
