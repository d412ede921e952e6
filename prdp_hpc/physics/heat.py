"""The heat equation, one implicit step a call."""

from __future__ import annotations

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
from prdp_hpc.physics.time_integration import checked_dt, extrapolated


class Heat(DiffusionStepper):
    """`u_t = ∇·(κ ∇u) + f`, backward Euler or the θ-scheme in time and central in space.

    One step solves `(I − dt ∇·κ∇) u⁺ = u + dt f` with a condition on each side. First order in
    `dt`, second in `h`; stable for every `dt`. With `theta` below 1 it solves the same for
    `w = θ u⁺ + (1 − θ) u` and the time step `θ dt`: Crank–Nicolson for θ = 1/2, of second order.

    Parameters
    ----------
    grid : where `u` lives.
    diffusivity : κ > 0 in length² / time: a number, a replicated tensor of shape `()`, or this
        rank's field of shape `local_shape`, or `(M, *local_shape)` with one for each sample.
        Tensors may require a gradient.
    dt : time step, > 0: a number, or a tensor of shape `()` that may require a gradient.
    solver : solves the step; `solver.refine` sets how accurately.
    boundaries : for each axis the conditions at its low and its high end, see
        `prdp_hpc.physics.boundaries`; default: as the grid says (value 0, no flux, periodic).
    face_mean : κ between two points: "arithmetic" (default), or "harmonic" for κ that jumps.
    source : f of every step, a number, or a tensor that broadcasts with states; may require a
        gradient where it is this rank's field. Default 0.
    theta : θ from 1/2 to 1 (default: backward Euler); see `ThetaScheme`.

    Raises
    ------
    ValueError
        If κ or dt is not positive, or of a wrong shape, for another θ, or for conditions that the
        grid cannot have.

    Source: paper, section on the heat emulator.
    """

    channels: tuple[str, ...] = ("u",)
    channelwise = True

    def __init__(
        self,
        grid: Grid,
        diffusivity: float | Tensor,
        dt: float | Tensor,
        solver: Solver,
        boundaries: Boundaries | None = None,
        face_mean: FaceMean = "arithmetic",
        source: float | Tensor = 0.0,
        theta: float = 1.0,
    ) -> None:
        if not 0.5 <= theta <= 1.0:
            raise InputError(
                "theta must be from 0.5 (Crank–Nicolson) to 1 (backward Euler), below which steps "
                f"are not stable, not {theta!r}"
            )
        self._dt = checked_dt(dt)
        self._theta = float(theta)
        self.source = source if isinstance(source, Tensor) else float(source)
        length = self._theta * self._dt
        super().__init__(grid, diffusivity, solver, 1.0, length, boundaries, face_mean)

    @classmethod
    def from_config(cls, section: Any, grid: Grid, solver: Solver) -> Heat:
        """The stepper of a section `physics` with `diffusivity`, `dt`, `boundaries`, `face_mean`,
        `source` and `theta`; collective.
        """
        return cls(
            grid,
            section.diffusivity,
            section.dt,
            solver,
            boundaries_of(section.boundaries, grid.dim),
            section.face_mean,
            section.source,
            section.theta,
        )

    @property
    def scheme(self) -> str:
        """How reference solutions are made, for their file."""
        time = "backward Euler" if self.theta == 1.0 else f"θ-scheme with θ = {self.theta:g}"
        return f"{time}, central differences, conjugate gradients to rtol 1e-12"

    @staticmethod
    def reference_solver() -> Solver:
        """A solver for reference solutions: the matrix is symmetric and well conditioned."""
        return Solver("cg", "jacobi", Refinement(rtol=1e-12))

    def attributes(self) -> dict[str, float]:
        """`dt` and, where they are numbers, `diffusivity`, `source`, those on the sides, and θ
        where it is not 1.
        """
        kappa = {} if self.diffusivity.dim() else {"diffusivity": self.diffusivity.item()}
        source = {"source": self.source} if isinstance(self.source, float) and self.source else {}
        theta = {} if self.theta == 1.0 else {"theta": self.theta}
        sides = numbers_of(self.boundaries)
        dt = self.dt.item() if isinstance(self.dt, Tensor) else self.dt
        return {"dt": dt, **kappa, **source, **sides, **theta}

    def initial_states(self, generator: np.random.Generator, count: int, modes: int) -> Tensor:
        """This rank's part of truncated Fourier series of `modes` modes, `(count, 1,
        *local_shape)`; collective.

        Source: paper, appendix on the heat experiments.
        """
        whole = truncated_fourier(generator, count, unit_axes(self.grid), modes)[:, None]
        return self.grid.scatter(torch.from_numpy(whole))

    @property
    def dt(self) -> float | Tensor:
        """The time step; the matrix has it too, so that another one needs another stepper."""
        return self._dt

    @property
    def theta(self) -> float:
        """θ, fixed likewise."""
        return self._theta

    def __call__(
        self, u: Tensor, source: Tensor | None = None, time: float | Tensor | None = None
    ) -> Tensor:
        """The state one step later.

        `u`: `(B, C, *local_shape)` (any leading axes will do); every channel diffuses alone.
        `source`: what f has beside the stepper's own, at the new time, `time + θ dt`, of a shape
        that broadcasts with `u`. `time`: of `u`; functions on the sides that take the time get
        `time + θ dt`. Differentiable in `u`, `source`, κ, dt and what the sides say; collective.
        """
        length: Any = self._shared(self._scale, u.device)
        right = u if source is None else u + length * source
        if isinstance(self.source, Tensor) or self.source != 0.0:
            own = self.source
            right = right + length * (own.to(u.device) if isinstance(own, Tensor) else own)
        between = self._solve(right, None if time is None else time + self._scale, state=u)
        return extrapolated(u, between, self.theta)
