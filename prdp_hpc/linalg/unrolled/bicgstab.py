"""BiCGStab as a differentiable iteration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prdp_hpc.linalg.unrolled.convergence import ConvergenceTest
from prdp_hpc.linalg.unrolled.methods import Method, preconditioned_product, ratio
from prdp_hpc.linalg.unrolled.reductions import dots
from prdp_hpc.linalg.unrolled.state import ResidualState
from prdp_hpc.linalg.unrolled.system import System
from prdp_hpc.petsc import PETSc

BREAKDOWN = 4e-15
"""A cosine in double precision that is made of rounding."""
_BREAKDOWN = PETSc.KSP.ConvergedReason.DIVERGED_BREAKDOWN


@dataclass(frozen=True)
class _BiState(ResidualState):
    """The shadow residual r̃, the direction p, and `rho = ⟨r, r̃⟩`."""

    shadow: Tensor
    p: Tensor
    rho: Tensor


class BiCGStab(Method[_BiState]):
    """PETSc manual page: KSPBCGS.

    `least`: the smallest cosine between r or `A p` and the shadow residual that is no breakdown. A
    smaller one is rounding: iterates may still converge, but their derivatives are arbitrary.
    """

    def __init__(self, least: float = 0.0) -> None:
        self.least = least

    def start(self, system: System, b: Tensor, test: ConvergenceTest) -> _BiState:
        """From zero."""
        r = b if system.right_side else system.precondition(b)
        (rho,) = dots(system.comm, (r, r))
        test.begin(rho)
        return _BiState(torch.zeros_like(b), r, r, r, rho)

    def step(self, system: System, b: Tensor, state: _BiState, test: ConvergenceTest) -> _BiState:
        """One step of BiCG and one of minimal residual; three reductions."""
        r, shadow, p, rho = state.r, state.shadow, state.p, state.rho
        v = preconditioned_product(system, p)
        pairs = ((v, v), (r, r), (shadow, shadow)) if self.least else ()
        vs, *squares = dots(system.comm, (v, shadow), *pairs)
        lost = (vs == 0.0) | (rho.detach() == 0.0)
        if squares:
            vv, rr, ss = (square.detach() for square in squares)
            for product, square in ((vs, vv), (rho, rr)):
                lost |= product.detach() ** 2 <= self.least**2 * square * ss
        test.drop(lost, _BREAKDOWN)
        active = test.active
        alpha = active * ratio(rho, vs)
        s = torch.addcmul(r, alpha, v, value=-1.0)
        t = preconditioned_product(system, s)
        st, tt = dots(system.comm, (s, t), (t, t))
        omega = active * ratio(st, tt)
        x = torch.addcmul(torch.addcmul(state.x, alpha, p), omega, s)
        if test.is_last:
            test.done(None)
            return _BiState(x, r, shadow, p, rho)
        r = torch.addcmul(s, omega, t, value=-1.0)
        following, rr = dots(system.comm, (r, shadow), (r, r))
        test.done(rr)
        beta = ratio(following, rho) * ratio(alpha, omega)
        return _BiState(x, r, shadow, r + beta * (p - omega * v), following)

    def solution(self, system: System, state: _BiState) -> Tensor:
        """The iterate x; the right preconditioner is applied here."""
        return system.precondition(state.x) if system.right_side else state.x
