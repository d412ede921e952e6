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
from prdp_hpc.physics.boundaries import Boundaries, boundaries_of, numbers_of
from prdp_hpc.physics.diffusion import DiffusionStepper, FaceMean
from prdp_hpc.physics.initial_conditions import truncated_fourier
from prdp_hpc.physics.stepper import unit_axes


class Heat(DiffusionStepper):
    """`u_t = ∇·(κ ∇u) + f`, backward Euler in time and central in space.

    One step solves `(I − dt ∇·κ∇) u⁺ = u + dt f` with a condition on each side. First order in
    `dt`, second in `h`; stable for every `dt`.

    Parameters
    ----------
    grid : where `u` lives.
    diffusivity : κ > 0 in length² / time: a number, a replicated tensor of shape `()`, or this
        rank's field of shape `local_shape`, or `(M, *local_shape)` with one for each sample.
        Tensors may require a gradient.
    dt : time step, > 0.
    solver : solves the step; `solver.refine` sets how accurately.
    boundaries : for each axis the conditions at its low and its high end, see
        `prdp_hpc.physics.boundaries`; default: as the grid says (value 0, no flux, periodic).
    face_mean : κ between two points: "arithmetic" (default), or "harmonic" for κ that jumps.
    source : f of every step, a number, or a tensor that broadcasts with states; may require a
        gradient where it is this rank's field. Default 0.

    Raises
    ------
    ValueError
        If κ or dt is not positive, or of a wrong shape, or for conditions that the grid cannot
        have.

    Source: paper, section on the heat emulator.
    """

    channels: tuple[str, ...] = ("u",)
    channelwise = True
    scheme = "backward Euler, central differences, conjugate gradients to rtol 1e-12"

    def __init__(
        self,
        grid: Grid,
        diffusivity: float | Tensor,
        dt: float,
        solver: Solver,
        boundaries: Boundaries | None = None,
        face_mean: FaceMean = "arithmetic",
        source: float | Tensor = 0.0,
    ) -> None:
        if not 0 < dt < math.inf:
            raise InputError(f"the time step dt must be positive and finite, not {dt!r}")
        self._dt = float(dt)
        self.source = source if isinstance(source, Tensor) else float(source)
        super().__init__(grid, diffusivity, solver, 1.0, self._dt, boundaries, face_mean)

    @classmethod
    def from_config(cls, section: Any, grid: Grid, solver: Solver) -> Heat:
        """The stepper of a section `physics` with `diffusivity`, `dt`, `boundaries`, `face_mean`
        and `source`; collective.
        """
        sides = boundaries_of(section.boundaries, grid.dim)
        kappa, dt, mean = section.diffusivity, section.dt, section.face_mean
        return cls(grid, kappa, dt, solver, sides, mean, source=section.source)

    @staticmethod
    def reference_solver() -> Solver:
        """A solver for reference solutions: the matrix is symmetric and well conditioned."""
        return Solver("cg", "jacobi", Refinement(rtol=1e-12))

    def attributes(self) -> dict[str, float]:
        """`dt` and, where they are numbers, `diffusivity`, `source` and those on the sides."""
        kappa = {} if self.diffusivity.dim() else {"diffusivity": self.diffusivity.item()}
        source = {"source": self.source} if isinstance(self.source, float) and self.source else {}
        return {"dt": self.dt, **kappa, **source, **numbers_of(self.boundaries)}

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

    def __call__(
        self, u: Tensor, source: Tensor | None = None, time: float | Tensor | None = None
    ) -> Tensor:
        """The state one step later.

        `u`: `(B, C, *local_shape)` (any leading axes will do); every channel diffuses alone.
        `source`: what f has at the new time beside the stepper's own, of a shape that broadcasts
        with `u`. `time`: of `u`; functions
        on the sides that take the time get the new one, `time + dt`. Differentiable in `u`,
        `source`, κ and what the sides say; collective.
        """
        right = u if source is None else u + self.dt * source
        if isinstance(self.source, Tensor) or self.source != 0.0:
            right = right + self.dt * self.source
        return self._solve(right, None if time is None else time + self.dt, u)
