"""The heat equation, one backward Euler step a call."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Refinement, Solver
from prdp_hpc.physics.diffusion import DiffusionStepper
from prdp_hpc.physics.initial_conditions import truncated_fourier
from prdp_hpc.physics.stepper import unit_axes


class Heat(DiffusionStepper):
    """`u_t = ∇·(κ ∇u) + f`, backward Euler in time and central in space.

    One step solves `(I − dt ∇·κ∇) u⁺ = u + dt f`, with the boundary values 0, no flux, or periodic,
    as the grid says. First order in `dt`, second in `h`; stable for every `dt`.

    Parameters
    ----------
    grid : where `u` lives.
    diffusivity : κ > 0 in length² / time: a number, a replicated tensor of shape `()`, or this
        rank's field of shape `local_shape`. Tensors may require a gradient.
    dt : time step, > 0.
    solver : solves the step; `solver.refine` sets how accurately.

    Raises
    ------
    ValueError
        If κ or dt is not positive, or of a wrong shape.

    Source: paper, section on the heat emulator.
    """

    channels: tuple[str, ...] = ("u",)
    channelwise = True
    scheme = "backward Euler, central differences, conjugate gradients to rtol 1e-12"

    def __init__(self, grid: Grid, diffusivity: float | Tensor, dt: float, solver: Solver) -> None:
        if not 0 < dt < math.inf:
            raise InputError(f"the time step dt must be positive and finite, not {dt!r}")
        self._dt = float(dt)
        super().__init__(grid, diffusivity, solver, mass=1.0, scale=self._dt)

    @classmethod
    def from_config(cls, section: Any, grid: Grid, solver: Solver) -> Heat:
        """The stepper of a section `physics` with `diffusivity` and `dt`; collective."""
        return cls(grid, section.diffusivity, section.dt, solver)

    @staticmethod
    def reference_solver() -> Solver:
        """A solver for reference solutions: the matrix is symmetric and well conditioned."""
        return Solver("cg", "jacobi", Refinement(rtol=1e-12))

    def attributes(self) -> dict[str, float]:
        """`dt` and, where it is one number, `diffusivity`."""
        kappa = {} if self.diffusivity.dim() else {"diffusivity": self.diffusivity.item()}
        return {"dt": self.dt, **kappa}

    def initial_states(self, generator: np.random.Generator, count: int, modes: int) -> Tensor:
        """This rank's part of truncated Fourier series of `modes` modes, `(count, 1,
        *local_shape)`; collective.

        Source: paper, appendix on the heat experiments.
        """
        whole = truncated_fourier(generator, count, unit_axes(self.grid), modes)[:, None]
        return self.grid.scatter(torch.from_numpy(whole))

    @property
    def dt(self) -> float:
        """The time step; the matrix has it too, so that another one needs another stepper."""
        return self._dt

    def __call__(self, u: Tensor, source: Tensor | None = None) -> Tensor:
        """The state one step later.

        `u`: `(B, C, *local_shape)` (any leading axes will do); every channel diffuses alone.
        `source`: f at the new time, of a shape that broadcasts with `u`. Differentiable in `u`,
        `source` and κ; collective.
        """
        return self._solve(u if source is None else u + self.dt * source, u)
