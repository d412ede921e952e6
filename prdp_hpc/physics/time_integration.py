"""Time integration schemes of second order, made from backward Euler steps.

Each scheme takes a function that makes a backward Euler stepper of any time step: `h ↦ (u ↦ v)`
with `(v − u) / h = L(v) + f`, e.g. `lambda h: Heat(grid, kappa, h, solver)`. The requirements on
the solver, the conditions on sides, coefficients and gradients are therefore those of the stepper.
L may be nonlinear in `ThetaScheme` and `BDF2`.

The stepper is called as `stepper(u)`, with `source=f` if there is a source, and with `time=…` if
the step has a time: that of `u`, so that `time + h` is the time of `v`, at which the scheme
evaluates conditions and sources.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from prdp_hpc.errors import InputError
from prdp_hpc.physics.real_numbers import as_float, checked_dt, checked_time, not_constant

Length = float | Tensor
Pair = tuple[Tensor, Tensor]
Explicit = Callable[..., Tensor]
Implicit = Callable[[Any], Callable[..., Tensor]]


class _Scheme:
    """Base class of all schemes: the steppers by their time step, as multiples of dt; collective.

    The steppers are made in the constructor, where gradients are recorded: the first steps of a
    rollout record none.
    """

    def __init__(self, implicit: Implicit, dt: Length, *shares: float) -> None:
        self.dt = checked_dt(dt)
        self.share = shares[0]
        self._implicit, self._shares = implicit, shares
        self._make_steppers()

    def _make_steppers(self) -> None:
        self._made_for = self.dt, as_float(self.dt)
        self._steppers = {
            share: self._implicit(_multiple(self.dt, share)) for share in self._shares
        }

    def _stepper_of(self, share: float) -> Callable[..., Tensor]:
        """The stepper of length `share · dt`; all are made again if dt has changed in the meantime,
        e.g. by an optimiser.
        """
        made, number = self._made_for
        if made is not self.dt or number != as_float(self.dt):
            checked_dt(self.dt)
            with torch.inference_mode(False), torch.enable_grad():
                self._make_steppers()
        return self._steppers[share]

    @property
    def grid(self) -> Any:
        """The grid of the stepper."""
        return self._stepper.grid

    @property
    def solver(self) -> Any:
        """The solver of the stepper."""
        return self._stepper.solver

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels of the stepper."""
        found: tuple[str, ...] = self._stepper.channels
        return found

    @property
    def _stepper(self) -> Any:
        return self._steppers[self.share]

    def _backward_euler(
        self, share: float, u: Tensor, source: Tensor | None, time: Any, ends: float
    ) -> Tensor:
        """A step of length `share · dt` with sources and conditions at the time
        `time + ends · dt`.
        """
        options: dict[str, Any] = {} if source is None else {"source": source}
        if checked_time(time) is not None:
            options["time"] = time + (ends - share) * self.dt
        after: Tensor = self._stepper_of(share)(u, **options)
        return after


class ThetaScheme(_Scheme):
    """The θ-scheme `(u⁺ − u) / dt = L(w) + f` with `w = θ u⁺ + (1 − θ) u`.

    It is of second order for θ = 1/2 and of first order otherwise; stable for every dt if θ ≥ 1/2.
    w is a backward Euler step of length `θ dt` from u, then `u⁺ = u + (w − u) / θ`. θ = 1 is
    backward Euler, θ = 1/2 the implicit midpoint rule, which for linear L is Crank–Nicolson. The
    latter hardly damps fast modes, so rough states oscillate (use θ slightly above 1/2, or `BDF2`).

    Parameters
    ----------
    implicit : callable
        Makes the backward Euler stepper for a time step: `implicit(h)`.
    dt : float or Tensor
        The time step, a number or a tensor of shape `()`, with or without gradient; `implicit` is
        called with a multiple of it.
    theta : float, default 0.5
        The parameter θ with 0 < θ ≤ 1.

    Raises
    ------
    InputError
        For a θ or a dt out of range.

    Notes
    -----
    Source: Hairer and Wanner, Solving Ordinary Differential Equations II.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import Grid, Heat, Solver, ThetaScheme, rollout
    >>> grid, solver = Grid((15,)), Solver("cg", "jacobi", 1e-10)
    >>> scheme = ThetaScheme(lambda h: Heat(grid, 1.0, h, solver), dt=0.01)
    >>> u = torch.sin(torch.pi * grid.coordinates()[0])[None, None]
    >>> after = rollout(scheme, u, 10)
    >>> round(float(after.norm() / u.norm()), 3)  # exp(−0.1 π²) = 0.373
    0.374
    """

    def __init__(self, implicit: Implicit, dt: Length, theta: float = 0.5) -> None:
        self.theta = checked_theta(theta)
        super().__init__(implicit, dt, self.theta)

    def __call__(self, u: Tensor, source: Tensor | None = None, time: Any = None) -> Tensor:
        """Return the state after a step.

        `source` is f at `time + θ dt`. Differentiable; collective.
        """
        between = self._backward_euler(self.theta, u, source, time, self.theta)
        return extrapolated(u, between, self.theta)


class _TwoStates(_Scheme, ABC):
    """Schemes whose state is a pair: u and the state one step before."""

    def __call__(self, states: Pair, source: Tensor | None = None, time: Any = None) -> Pair:
        """Return the pair one step later.

        `time` is that of the newer state. Differentiable; collective.
        """
        now, before = states
        return self._next(now, before, source, time), now

    @abstractmethod
    def start(self, u: Tensor, source: Tensor | None = None, time: Any = None) -> Pair:
        """Return the pair after the first step, by a scheme of first order.

        This does not lower the order of the following steps.
        """

    @abstractmethod
    def _next(self, now: Tensor, before: Tensor, source: Tensor | None, time: Any) -> Tensor: ...


class BDF2(_TwoStates):
    """The BDF2 scheme `(3 u⁺ − 4 u + u⁻) / (2 dt) = L(u⁺) + f`, of second order.

    It damps fast modes and is stable for every dt. A step is a backward Euler step of length `2/3
    dt` from `(4 u − u⁻) / 3`. The state is the pair `(u, u⁻)`; the first step, `start`, is backward
    Euler.

    Parameters
    ----------
    implicit : callable
        Makes the backward Euler stepper for a time step: `implicit(h)`.
    dt : float or Tensor
        The time step, a number or a tensor of shape `()`.

    Raises
    ------
    InputError
        For a dt that is not positive and finite.

    Notes
    -----
    Source: Hairer and Wanner, Solving Ordinary Differential Equations II.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import BDF2, Grid, Heat, Solver, rollout
    >>> grid, solver = Grid((15,)), Solver("cg", "jacobi", 1e-10)
    >>> scheme = BDF2(lambda h: Heat(grid, 1.0, h, solver), dt=0.01)
    >>> u = torch.sin(torch.pi * grid.coordinates()[0])[None, None]
    >>> after, _ = rollout(scheme, scheme.start(u), 9)  # 10 steps in total
    >>> round(float(after.norm() / u.norm()), 3)  # exp(−0.1 π²) = 0.373
    0.376
    """

    def __init__(self, implicit: Implicit, dt: Length) -> None:
        super().__init__(implicit, dt, 2 / 3, 1.0)

    def start(self, u: Tensor, source: Tensor | None = None, time: Any = None) -> Pair:
        """Return the pair after the first step, a backward Euler step of length dt."""
        return self._backward_euler(1.0, u, source, time, 1.0), u

    def _next(self, now: Tensor, before: Tensor, source: Tensor | None, time: Any) -> Tensor:
        """`source` is f at `time + dt`."""
        return self._backward_euler(self.share, (4 * now - before) / 3, source, time, 1.0)


class _Imex(_TwoStates):
    """Base class of both IMEX schemes: the explicit term."""

    length: ClassVar[float]

    def __init__(self, implicit: Implicit, explicit: Explicit, dt: Length) -> None:
        super().__init__(implicit, dt, self.length, 1.0)
        self.explicit = explicit

    def start(self, u: Tensor, source: Tensor | None = None, time: Any = None) -> Pair:
        """Return the pair after the first step: explicit Euler in N and backward Euler in L."""
        added = _sum(self._term(u, time, 0.0), source)
        return self._backward_euler(1.0, u, added, time, 1.0), u

    def _term(self, u: Tensor, time: Any, ends: float) -> Tensor:
        """N at `time + ends · dt`."""
        if checked_time(time) is None:
            return self.explicit(u)
        when = time + ends * self.dt
        return self.explicit(u, self.grid.replicated(when) if isinstance(when, Tensor) else when)


class SBDF2(_Imex):
    """The IMEX scheme `(3 u⁺ − 4 u + u⁻) / (2 dt) = L u⁺ + 2 N(u) − N(u⁻) + f`, of second order.

    Diffusion L is implicit, the term N explicit. It damps fast modes; dt is bounded by N only. The
    state is the pair `(u, u⁻)`; the first step is `start`.

    Parameters
    ----------
    implicit : callable
        Makes the backward Euler stepper of L for a time step, `implicit(h)`; the stepper must have
        the argument `source`.
    explicit : callable
        N, of fields of the state's shape; called as `explicit(u)`, or `explicit(u, time)` if the
        step has a time, whose gradient is summed over the ranks.
    dt : float or Tensor
        The time step, a number or a tensor of shape `()`.

    Raises
    ------
    InputError
        For a dt that is not positive and finite.

    Notes
    -----
    Source: Ascher, Ruuth and Wetton, SIAM J. Numer. Anal. 32 (1995).

    Examples
    --------
    Diffusion and reaction:

    >>> import torch
    >>> from prdp_hpc import SBDF2, Grid, Heat, Solver, rollout
    >>> grid, solver = Grid((16,), boundary="neumann"), Solver("cg", "jacobi", 1e-10)
    >>> scheme = SBDF2(lambda h: Heat(grid, 1e-3, h, solver), lambda u: u - u**3, dt=0.1)
    >>> u = torch.full((1, 1, 16), 0.5).double()
    >>> after, _ = rollout(scheme, scheme.start(u), 99)
    >>> bool((after - 1.0).abs().max() < 1e-6)
    True
    """

    length = 2 / 3

    def _next(self, now: Tensor, before: Tensor, source: Tensor | None, time: Any) -> Tensor:
        term = 2 * self._term(now, time, 0.0) - self._term(before, time, -1.0)
        right = (4 * now - before) / 3
        return self._backward_euler(self.share, right, _sum(term, source), time, 1.0)


class CNAB2(_Imex):
    """The IMEX scheme `(u⁺ − u) / dt = L (u⁺ + u) / 2 + 3/2 N(u) − 1/2 N(u⁻) + f`.

    Crank–Nicolson for diffusion L, Adams–Bashforth for the term N; second order. It hardly damps
    fast modes (`SBDF2` does); dt is bounded by N only. The state is the pair `(u, u⁻)`; the first
    step is `start`; f is that at `time + dt / 2`.

    Parameters
    ----------
    implicit : callable
        Makes the backward Euler stepper of L for a time step, `implicit(h)`; the stepper must have
        the argument `source`.
    explicit : callable
        N, of fields of the state's shape; called as `explicit(u)`, or `explicit(u, time)` if the
        step has a time, whose gradient is summed over the ranks.
    dt : float or Tensor
        The time step, a number or a tensor of shape `()`.

    Raises
    ------
    InputError
        For a dt that is not positive and finite.

    Notes
    -----
    Source: Ascher, Ruuth and Wetton, SIAM J. Numer. Anal. 32 (1995).

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import CNAB2, Grid, Heat, Solver, rollout
    >>> grid, solver = Grid((16,), boundary="neumann"), Solver("cg", "jacobi", 1e-10)
    >>> scheme = CNAB2(lambda h: Heat(grid, 1e-3, h, solver), lambda u: u - u**3, dt=0.1)
    >>> u = torch.full((1, 1, 16), 0.5).double()
    >>> after, _ = rollout(scheme, scheme.start(u), 99)
    >>> bool((after - 1.0).abs().max() < 1e-6)
    True
    """

    length = 0.5

    def _next(self, now: Tensor, before: Tensor, source: Tensor | None, time: Any) -> Tensor:
        term = 1.5 * self._term(now, time, 0.0) - 0.5 * self._term(before, time, -1.0)
        between = self._backward_euler(self.share, now, _sum(term, source), time, self.share)
        return extrapolated(now, between, self.share)


def extrapolated(u: Tensor, between: Tensor, theta: float) -> Tensor:
    """`u + (w − u) / θ`; w itself for θ = 1."""
    return between if theta == 1.0 else u + (between - u) / theta


def checked_theta(theta: float) -> float:
    """Return θ as a float; InputError unless 0 < θ ≤ 1."""
    error = not_constant("theta", theta)
    if error is not None:
        raise error
    if not 0 < as_float(theta) <= 1:
        raise InputError(
            f"theta must be above 0 and at most 1 (1: backward Euler, 0.5: Crank–Nicolson), not "
            f"{theta!r}"
        )
    return as_float(theta)


def _multiple(dt: Length, share: float) -> Length:
    """`share · dt`, whose graph is used by the backward passes of all steps: torch frees what a
    product stores after the first of them, and an addition stores nothing.
    """
    if not isinstance(dt, Tensor):
        return share * dt
    dt = dt if dt.is_floating_point() else dt.double()
    return torch.add(torch.zeros_like(dt), dt, alpha=share)


def _sum(term: Tensor, source: Tensor | None) -> Tensor:
    return term if source is None else term + source
