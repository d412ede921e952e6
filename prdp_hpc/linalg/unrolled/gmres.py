"""Restarted GMRES as a differentiable iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prdp_hpc.linalg.unrolled.convergence import ConvergenceTest
from prdp_hpc.linalg.unrolled.methods import Method, preconditioned_product, ratio, root
from prdp_hpc.linalg.unrolled.reductions import combine, dots, orthogonalise
from prdp_hpc.linalg.unrolled.state import State
from prdp_hpc.linalg.unrolled.system import System
from prdp_hpc.petsc import PETSc

ROUNDING = 1e-14
"""Remainder of a product, relative to the product, that is rounding."""
_REASONS = PETSc.KSP.ConvergedReason


@dataclass(frozen=True)
class _Cycle(State):
    """The state within a cycle, after j of its iterations. Basis vectors and columns of stopped
    right-hand sides are 0 and have no effect.

    Attributes
    ----------
    x : the iterate at the start of the cycle.
    beta : the norm of its residual.
    null : g `(B, j + 1)` with `gᵀ H = 0` and `g₀ = 1`; the residual's norm is `β / ‖g‖`, without a
        least-squares solve.
    basis : j + 1 vectors.
    columns : the j columns of the Hessenberg matrix H, `(B, i + 2)` for column i.
    """

    beta: Tensor
    null: Tensor
    basis: tuple[Tensor, ...]
    columns: tuple[Tensor, ...]


class GMRES(Method[State]):
    """GMRES(m) with classical Gram–Schmidt. PETSc manual page: KSPGMRES.

    Between cycles the state is x only.
    """

    needs_no_host = False

    def __init__(self, restart: int) -> None:
        self.restart = self.period = restart

    def start(self, system: System, b: Tensor, test: ConvergenceTest) -> State:
        """From zero."""
        r = b if system.right_side else system.precondition(b)
        (square,) = dots(system.comm, (r, r))
        test.begin(square)
        return _cycle(torch.zeros_like(b), r, square, test.active)

    def step(self, system: System, b: Tensor, state: State, test: ConvergenceTest) -> State:
        """One more basis vector; two reductions, and one at the start of a cycle."""
        if not isinstance(state, _Cycle):
            r = b - system.product(state.x)
            r = r if system.right_side else system.precondition(r)
            state = _cycle(state.x, r, dots(system.comm, (r, r))[0], test.active)
        null, basis = state.null, state.basis
        w, h = orthogonalise(system.comm, preconditioned_product(system, basis[-1]), basis)
        (square,) = dots(system.comm, (w, w))
        norm = root(square)
        lost = _is_lost(null, h, norm)
        test.drop(lost, _REASONS.DIVERGED_BREAKDOWN)
        columns = (*state.columns, test.active * torch.cat([h, norm], dim=1))
        with torch.no_grad():
            following_null = -(null * h).sum(dim=1, keepdim=True) / norm
            null = torch.cat([null, torch.where(lost, 0.0, following_null)], dim=1)
            # Where the norm is 0 the Krylov space holds the solution, and g has no limit.
            residual = torch.where(
                norm == 0.0, 0.0, state.beta.square() / null.square().sum(dim=1, keepdim=True)
            )
        ends = test.is_last or len(columns) == self.restart
        following = () if ends else (test.active * ratio(w, norm),)
        test.done(residual)
        cycle = _Cycle(state.x, state.beta, null, (*basis, *following), columns)
        return State(_iterate(system, cycle)) if ends else cycle

    def solution(self, system: System, state: State) -> Tensor:
        """x and the minimiser over the basis."""
        return _iterate(system, state) if isinstance(state, _Cycle) else state.x


@torch.no_grad()
def _is_lost(null: Tensor, h: Tensor, norm: Tensor) -> Tensor:
    """Where the Krylov space ends without the solution, which may happen for a singular matrix: a
    column of H depends on those before it; `(B, 1)`.
    """
    size = torch.hypot(torch.linalg.vector_norm(h, dim=1, keepdim=True), norm)
    along = (null * h).sum(dim=1, keepdim=True).abs()
    lengths = torch.linalg.vector_norm(null, dim=1, keepdim=True)
    lost: Tensor = (norm <= ROUNDING * size) & (along <= ROUNDING * size * lengths)
    return lost


def _cycle(x: Tensor, r: Tensor, square: Tensor, active: Tensor) -> _Cycle:
    beta = active * root(square)
    return _Cycle(x, beta, torch.ones_like(beta), (ratio(active * r, beta),), ())


def _iterate(system: System, cycle: _Cycle) -> Tensor:
    columns = cycle.columns
    if not columns:
        return cycle.x
    weights = _least_squares(_hessenberg(columns), cycle.beta)
    update = combine(weights, cycle.basis[: len(columns)])
    return cycle.x + (system.precondition(update) if system.right_side else update)


def _hessenberg(columns: tuple[Tensor, ...]) -> Tensor:
    """`(B, j + 1, j)`."""
    height = len(columns) + 1
    return torch.stack(
        [torch.nn.functional.pad(c, (0, height - c.shape[1])) for c in columns], dim=2
    )


def _least_squares(hessenberg: Tensor, beta: Tensor) -> Tensor:
    """`argmin_y ‖β e₁ − H y‖`, `(B, j)`; 0 for columns that are 0."""
    y: Tensor = _LeastSquares.apply(hessenberg, beta)  # type: ignore[no-untyped-call]
    return y


class _LeastSquares(torch.autograd.Function):
    """By QR. With `s = (HᵀH)⁻¹ g` and the residual r: `∂L/∂H = r sᵀ − (H s) yᵀ`, `∂L/∂β = (H
    s)₁`.
    """

    @staticmethod
    def forward(ctx: Any, hessenberg: Tensor, beta: Tensor) -> Tensor:
        dead = ~hessenberg.any(dim=1)
        q, r = torch.linalg.qr(hessenberg)
        # A column of zeros belongs to a right-hand side that has stopped or converged exactly.
        r = r + torch.diag_embed(torch.where(dead, 1.0, 0.0).to(r))
        y = torch.linalg.solve_triangular(r, (beta * q[:, 0]).unsqueeze(2), upper=True).squeeze(2)
        y = torch.where(dead, 0.0, y)
        ctx.save_for_backward(hessenberg, beta, r, y, dead)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        hessenberg, beta, r, y, dead = ctx.saved_tensors
        g = torch.where(dead, 0.0, grads[0]).unsqueeze(2)
        s = torch.linalg.solve_triangular(
            r, torch.linalg.solve_triangular(r.mT, g, upper=False), upper=True
        )
        s = torch.where(dead.unsqueeze(2), 0.0, s)
        rest = -hessenberg @ y.unsqueeze(2)
        rest[:, 0] += beta
        hs = hessenberg @ s
        return rest @ s.mT - hs @ y.unsqueeze(1), hs[:, 0]
