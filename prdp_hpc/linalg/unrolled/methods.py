"""Iterations of PETSc's KSPs of these names, from a zero start.

A method is a start, a step and a solution on states. Vectors are `(B, n_local)`, scalars `(B, 1)`.
Right-hand sides that have stopped take steps of length 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from prdp_hpc.linalg.unrolled.convergence import ConvergenceTest, last_iteration
from prdp_hpc.linalg.unrolled.reductions import dots
from prdp_hpc.linalg.unrolled.state import ResidualState, State
from prdp_hpc.linalg.unrolled.system import System, UnrolledSystem
from prdp_hpc.petsc import PETSc

_REASONS = PETSc.KSP.ConvergedReason


S = TypeVar("S", bound=State)


class Method(ABC, Generic[S]):
    """One KSP, with states of type S.

    Attributes
    ----------
    norm : the residual norm for a tolerance with left preconditioning; PETSc's default for the KSP.
    is_stationary : linear in b and equal in each step, so that its adjoint needs no iterates.
    period : iterations from one small state to the next.
    needs_no_host : whether a step can be done without waiting for the device.
    """

    norm: int = PETSc.KSP.NormType.PRECONDITIONED
    is_stationary = False
    period = 1
    needs_no_host = True

    @abstractmethod
    def start(self, system: System, b: Tensor, test: ConvergenceTest) -> S:
        """The state before the first iteration."""

    @abstractmethod
    def step(self, system: System, b: Tensor, state: S, test: ConvergenceTest) -> S:
        """The state one iteration later; in the last iteration only its solution is valid."""

    def solution(self, system: System, state: S) -> Tensor:
        """The iterate of a state."""
        return state.x


class Richardson(Method[ResidualState]):
    """`x ← x + ω M⁻¹ (b − A x)`; with Jacobi's preconditioner, Jacobi's method. PETSc manual page:
    KSPRICHARDSON.
    """

    is_stationary = True

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def start(self, system: System, b: Tensor, test: ConvergenceTest) -> ResidualState:
        """From zero; the state is x and the preconditioned residual."""
        z = system.precondition(b)
        if test.is_tested:
            test.begin(dots(system.comm, (z, z))[0])
        return ResidualState(torch.zeros_like(b), z)

    def step(
        self, system: System, b: Tensor, state: ResidualState, test: ConvergenceTest
    ) -> ResidualState:
        """Add one preconditioned residual; no reduction unless the norm is needed."""
        x, z = state.x, state.r
        x = torch.addcmul(x, test.active, z, value=self.scale)
        if test.is_last:
            test.done(None)
            return ResidualState(x, z)
        z = system.precondition(b - system.product(x))
        test.done(dots(system.comm, (z, z))[0] if test.is_tested else None)
        return ResidualState(x, z)

    def transposed(self, system: UnrolledSystem, grad: Tensor, counts: Tensor) -> Tensor:
        """The adjoint of each right-hand side's K steps: K steps with Aᵀ and M⁻ᵀ, since `Σ (I − ω
        M⁻¹A)^k M⁻¹` is a sum of products whose transposes have the same form.
        """
        x = torch.zeros_like(grad)
        for step in range(last_iteration(counts)):
            rest = grad - system.plain_product(x, transposed=True) if step else grad
            x = x + (self.scale * (counts > step)) * system.transposed_precondition(rest)
        return system.without_left_nullspace(x)


class SteepestDescent(Method[ResidualState]):
    """`x ← x + α z`, `z = M⁻¹ r`, `α = ⟨r, z⟩ / ⟨z, A z⟩`: exact line search; for symmetric
    positive definite matrices.
    """

    norm = PETSc.KSP.NormType.UNPRECONDITIONED

    def start(self, system: System, b: Tensor, test: ConvergenceTest) -> ResidualState:
        """From zero."""
        if test.is_tested:
            test.begin(dots(system.comm, (b, b))[0])
        return ResidualState(torch.zeros_like(b), b)

    def step(
        self, system: System, b: Tensor, state: ResidualState, test: ConvergenceTest
    ) -> ResidualState:
        """Minimise along the preconditioned gradient; one reduction, and one for the norm."""
        x, r = state.x, state.r
        z = system.precondition(r)
        az = system.product(z)
        rz, zaz, rr = dots(system.comm, (r, z), (z, az), (r, r))
        test.solved((rz == 0.0) & (zaz == 0.0))
        if not test.is_tested:
            test.look_for_rounding(rr)
        alpha = test.active * ratio(rz, zaz)
        x, r = torch.addcmul(x, alpha, z), torch.addcmul(r, alpha, az, value=-1.0)
        # Else rounding in the nullspace, which no step reduces, would be all that is left of r, and
        # its line searches would have any length.
        r = system.without_left_nullspace(r)
        test.done(dots(system.comm, (r, r))[0] if test.is_tested else None)
        return ResidualState(x, r)


@dataclass(frozen=True)
class _CGState(ResidualState):
    """The direction p, `zr = ⟨z, r⟩`, and `⟨p, A p⟩` of the step before."""

    p: Tensor
    zr: Tensor
    pap: Tensor


class ConjugateGradients(Method[_CGState]):
    """PETSc manual page: KSPCG."""

    def start(self, system: System, b: Tensor, test: ConvergenceTest) -> _CGState:
        """From zero."""
        z = system.precondition(b)
        zr, zz = dots(system.comm, (z, b), (z, z))
        test.begin(zz)
        return _CGState(torch.zeros_like(b), b, z, zr, torch.zeros_like(zr))

    def step(self, system: System, b: Tensor, state: _CGState, test: ConvergenceTest) -> _CGState:
        """Minimise along the next conjugate direction; two reductions."""
        p, zr = state.p, state.zr
        ap, pap = system.curvature(p)
        lost = (pap == 0.0) | (pap * state.pap < 0.0)
        test.drop(lost, _REASONS.DIVERGED_INDEFINITE_MAT, begun=1)
        alpha = test.active * ratio(zr, pap)
        if test.is_last:
            test.done(None)
            x = torch.addcmul(state.x, alpha, p)
            return _CGState(x, state.r, p, zr, pap.detach())
        x, r, z, following, zz = system.descend(state.x, state.r, alpha, p, ap)
        test.done(zz)
        test.drop(following * zr.detach() < 0.0, _REASONS.DIVERGED_INDEFINITE_PC, begun=1)
        p = system.turn(z, ratio(following, zr), p)
        return _CGState(x, r, p, following, pap.detach())


def preconditioned_product(system: System, x: Tensor) -> Tensor:
    """`A M⁻¹ x` with the preconditioner on the right, else `M⁻¹ A x`."""
    if system.right_side:
        return system.product(system.precondition(x))
    return system.precondition(system.product(x))


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient; 0 where the denominator is 0, i.e. where the residual is 0."""
    zero = denominator == 0.0
    return torch.where(zero, 0.0, numerator / torch.where(zero, 1.0, denominator))


def root(square: Tensor) -> Tensor:
    """The square root, with derivative 0 at 0."""
    zero = square == 0.0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt())
