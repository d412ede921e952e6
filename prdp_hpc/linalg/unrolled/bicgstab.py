"""BiCGStab as a differentiable iteration."""

from __future__ import annotations

import torch
from torch import Tensor

from prdp_hpc.linalg.unrolled.methods import Method, State, preconditioned_product, ratio
from prdp_hpc.linalg.unrolled.reductions import dots
from prdp_hpc.linalg.unrolled.system import System
from prdp_hpc.linalg.unrolled.watch import Watch
from prdp_hpc.petsc import PETSc

_BREAKDOWN = PETSc.KSP.ConvergedReason.DIVERGED_BREAKDOWN


class BiCGStab(Method):
    """PETSc manual page: KSPBCGS. The state is x, r, r̃, the direction p, and ρ = ⟨r, r̃⟩."""

    def start(self, system: System, b: Tensor, watch: Watch) -> State:
        """From zero."""
        r = b if system.right_side else system.precondition(b)
        (rho,) = dots(system.comm, (r, r))
        watch.begin(rho)
        return torch.zeros_like(b), r, r, r, rho

    def step(self, system: System, b: Tensor, state: State, watch: Watch) -> State:
        """One step of BiCG and one of minimal residual; three reductions."""
        x, r, shadow, p, rho = state
        v = preconditioned_product(system, p)
        (vs,) = dots(system.comm, (v, shadow))
        watch.drop((vs == 0.0) | (rho.detach() == 0.0), _BREAKDOWN)
        active = watch.active
        alpha = active * ratio(rho, vs)
        s = torch.addcmul(r, alpha, v, value=-1.0)
        t = preconditioned_product(system, s)
        st, tt = dots(system.comm, (s, t), (t, t))
        omega = active * ratio(st, tt)
        x = torch.addcmul(torch.addcmul(x, alpha, p), omega, s)
        if watch.is_last:
            watch.done(None)
            return x, r, shadow, p, rho
        r = torch.addcmul(s, omega, t, value=-1.0)
        following, rr = dots(system.comm, (r, shadow), (r, r))
        watch.done(rr)
        beta = ratio(following, rho) * ratio(alpha, omega)
        return x, r, shadow, r + beta * (p - omega * v), following

    def solution(self, system: System, state: State) -> Tensor:
        """x, with the preconditioner on the right applied at last."""
        return system.precondition(state[0]) if system.right_side else state[0]
