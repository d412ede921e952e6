"""The heat equation, one implicit step per call."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.errors import InputError
from prdp_hpc.grid.partition import not_a_field
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Refinement, Solver
from prdp_hpc.number_checks import is_number
from prdp_hpc.physics.boundaries import Boundaries, boundaries_of, numbers_of
from prdp_hpc.physics.diffusion import DiffusionStepper
from prdp_hpc.physics.diffusion_stencil import FaceMean
from prdp_hpc.physics.initial_conditions import truncated_fourier
from prdp_hpc.physics.real_numbers import (
    as_float,
    checked_dt,
    checked_time,
    has_real_numbers,
    not_constant,
    not_one_number,
    validate_dt,
)
from prdp_hpc.physics.time_integration import extrapolated


class Heat(DiffusionStepper):
    """The heat equation `u_t = ∇·(κ ∇u) + f`, one implicit step per call.

    Backward Euler in time and central differences in space: one step solves

        (I − dt ∇·κ∇) u⁺ = u + dt f

    with a condition on each side. First order in `dt`, second in `h`; stable for every `dt`. With
    `theta` below 1 it solves the same system for `w = θ u⁺ + (1 − θ) u` and the time step `θ dt`:
    Crank–Nicolson, of second order, for θ = 1/2.

    Parameters
    ----------
    grid : Grid
        The grid of u.
    diffusivity : float or Tensor
        The diffusivity κ > 0 in length² / time: a number, a replicated tensor of shape `()`, this
        rank's field of shape `local_shape`, or `(M, *local_shape)` with one field per sample.
        Tensors may require a gradient.
    dt : float or Tensor
        Time step, > 0: a number, or a tensor of shape `()` that may require a gradient.
    solver : Solver
        Solver of a step; `solver.refine` sets its accuracy.
    boundaries : sequence of tuple, optional
        Per axis a pair of conditions at its low and its high end, see
        `prdp_hpc.physics.boundaries`. Default: those of the grid (value 0, no flux, periodic).
    face_mean : {"arithmetic", "harmonic"}, default "arithmetic"
        The mean of κ between two points; "harmonic" for discontinuous κ.
    source : float or Tensor, default 0.0
        The source f of every step, in units of u / time: a number, or a tensor of a shape that
        broadcasts with states; it may require a gradient if it is this rank's field.
    theta : float, default 1.0
        The parameter θ from 1/2 to 1, see `ThetaScheme`.

    Raises
    ------
    InputError
        If κ or dt is not positive or has another shape, for another θ, or for conditions that the
        grid does not allow.

    Notes
    -----
    Source: PRDP (Bhatia, Koehler and Thuerey, ICLR 2025), section on the heat emulator.

    Examples
    --------
    The lowest mode decays by `1 / (1 + dt λ)` with `λ = (2 − 2 cos(π h)) / h²`:

    >>> import torch
    >>> from prdp_hpc import Grid, Heat, Solver
    >>> grid = Grid((31,))
    >>> heat = Heat(grid, diffusivity=1.0, dt=0.1, solver=Solver("cg", "jacobi", 1e-10))
    >>> (x,) = grid.coordinates()
    >>> u = torch.sin(torch.pi * x)[None, None]
    >>> after = heat(u)
    >>> round(float(after.norm() / u.norm()), 4)
    0.5035
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
        error = not_constant("theta", theta)
        if error is None and not isinstance(source, Tensor):
            error = not_one_number("source", source)
        if error is not None:
            raise error
        if not 0.5 <= theta <= 1.0:
            raise InputError(
                "theta must be from 0.5 (Crank–Nicolson) to 1 (backward Euler), because smaller "
                f"values are not stable, not {theta!r}"
            )
        self._dt = checked_dt(dt)
        self._theta = as_float(theta)
        self.source = source if isinstance(source, Tensor) else float(source)
        super().__init__(grid, diffusivity, solver, 1.0, boundaries, face_mean)

    @classmethod
    def from_config(cls, section: Any, grid: Grid, solver: Solver) -> Heat:
        """Make the stepper of a config's section `physics`; collective.

        Its keys are `diffusivity`, `dt`, `boundaries`, `face_mean`, `source` and `theta`.
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
        """Description of the scheme, for the files of reference solutions."""
        time = "backward Euler" if self.theta == 1.0 else f"θ-scheme with θ = {self.theta:g}"
        return f"{time}, central differences, conjugate gradients to rtol 1e-12"

    @staticmethod
    def reference_solver() -> Solver:
        """Return a solver for reference solutions: the matrix is symmetric and well conditioned."""
        return Solver("cg", "jacobi", Refinement(rtol=1e-12))

    def attributes(self) -> dict[str, float]:
        """Return the numbers that data files must agree with.

        They are `dt` and, if they are numbers, `diffusivity`, `source` and those of the sides; and
        θ unless it is 1.
        """
        diffusivity, sides = self.diffusivity, numbers_of(self.boundaries)
        kappa = {} if diffusivity.dim() else {"diffusivity": diffusivity.item()}
        source = {"source": self.source} if isinstance(self.source, float) and self.source else {}
        theta = {} if self.theta == 1.0 else {"theta": self.theta}
        dt = self.dt.item() if isinstance(self.dt, Tensor) else self.dt
        return {"dt": dt, **kappa, **source, **sides, **theta}

    def initial_states(self, generator: np.random.Generator, count: int, modes: int) -> Tensor:
        """Return random truncated Fourier series, this rank's part; collective.

        Source: PRDP, appendix on the heat experiments.

        Parameters
        ----------
        generator : numpy.random.Generator
            A generator in the same state on all ranks.
        count : int
            Number of states.
        modes : int
            Number of Fourier modes.

        Returns
        -------
        Tensor
            States, float64, shape `(count, 1, *local_shape)`.
        """
        whole = truncated_fourier(generator, count, self.grid.unit_axes(), modes)[:, None]
        return self.grid.scatter(torch.from_numpy(whole))

    @property
    def dt(self) -> float | Tensor:
        """The time step; a tensor may be changed in place."""
        return self._dt

    @property
    def _scale(self) -> float | Tensor:
        return self._theta * self._dt

    def _validate_numbers(self) -> InputError | None:
        return validate_dt(self._dt)

    @property
    def theta(self) -> float:
        """The parameter θ; another one needs another stepper."""
        return self._theta

    def __call__(
        self, u: Tensor, source: Tensor | None = None, time: float | Tensor | None = None
    ) -> Tensor:
        """Return the state one step later.

        Differentiable in `u`, `source`, κ, dt and the values on the sides; collective.

        Parameters
        ----------
        u : Tensor
            The state, shape `(B, C, *local_shape)` with any leading axes; channels do not interact.
        source : Tensor, optional
            Further source at the time `time + θ dt`, of a shape that broadcasts with `u`.
        time : float or Tensor, optional
            The time of `u`; time-dependent functions on the sides are evaluated at `time + θ dt`.

        Returns
        -------
        Tensor
            The state, of the shape of `u`.
        """
        right, error = u, None
        try:
            for own in (0.0 if source is None else source, self.source):
                right = self._with_source(right, own)
        except InputError as found:
            error = found
        checked_time(time)
        later = None if time is None else time + self._scale
        between = self._solve(right, later, state=u, error=error)
        return extrapolated(u, between, self.theta)

    def _with_source(self, u: Tensor, source: float | Tensor) -> Tensor:
        """`u + θ dt f`; an InputError for another kind of f or u. Not collective."""
        if not isinstance(u, Tensor):
            raise not_a_field(u)
        if is_number(source):
            if source == 0.0:
                return u
        elif not _is_source(source, u):
            shape = f" of shape {tuple(source.shape)}" if isinstance(source, Tensor) else ""
            raise InputError(
                "source must be a real number, or a tensor of a shape that broadcasts with the "
                f"state's, {tuple(u.shape)}, not a {type(source).__name__}{shape}"
            )
        length: Any = self._shared(self._scale, u.device)
        added: Tensor = length * (source.to(u.device) if isinstance(source, Tensor) else source)
        return u + added


def _is_source(source: Any, u: Tensor) -> bool:
    """Whether a source is a tensor of real numbers that fits to the state."""
    return isinstance(source, Tensor) and has_real_numbers(source) and _fit_together(source, u)


def _fit_together(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have shapes that broadcast."""
    try:
        torch.broadcast_shapes(first.shape, second.shape)
    except RuntimeError:
        return False
    return True
