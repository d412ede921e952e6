"""A preconditioner for coupled velocity and pressure: momentum by Jacobi, then a projection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.distributed.transport import all_reduce_sum
from prdp_hpc.grid.halo import neighbour
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg.batched.matrix import BatchedMatrix
from prdp_hpc.linalg.torch_petsc import HOST, Constant, Memory, placed, to_memory, viewed
from prdp_hpc.petsc import PETSc
from prdp_hpc.physics.fourier import FourierTransform

Array = NDArray[np.float64]

DAMPING = 0.7  # of the Jacobi step: the best value between 0.5 and 1 on the paper's states


class PeriodicStokes:
    """`[[F̂, G], [D, 0]]` on a periodic staggered grid, with constant coefficients: `F̂ = 1/dt − c
    Δ_h`.

    In Fourier space it has one small block per frequency: with the symbols `g` of G, `d = −ḡ` of D
    and `λ = d·g` of the Laplacian, `p̂ = (d·r̂_u − F̂ r̂_p) / λ` and `û = (r̂_u − g p̂) / F̂`. The
    same transform is used for all matrices on a grid. Since `Gᵀ = −D`, the transpose is the same
    with the sign of the pressure changed before and after.
    """

    def __init__(self, grid: Grid, dt: float) -> None:
        self.grid, self._dt = grid, dt
        self._transform = FourierTransform(grid)
        phases = [
            np.exp(2j * np.pi * k / n) - 1.0
            for k, n in zip(self._transform.frequencies, grid.shape, strict=True)
        ]
        # Component c is along axis −1 − c.
        gradient = [phase / h for phase, h in zip(phases, grid.spacing, strict=True)][::-1]
        laplacian: Array = sum((-(g * g.conj()).real for g in gradient), np.zeros(1))
        constant = laplacian == 0.0
        inverse = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, laplacian))
        self._laplacian, self._inverse_laplacian, *self._gradient = (
            Constant(torch.from_numpy(np.ascontiguousarray(symbol)))
            for symbol in (laplacian, inverse, *gradient)
        )
        self._stencil_diagonal = 2.0 * sum(1.0 / h**2 for h in grid.spacing)

    def viscosity(self, total: Any) -> Any:
        """c, for which F̂ has the mean of a momentum matrix's diagonal; `total`: that diagonal's
        sum over the whole grid.
        """
        return (total / (self.grid.dim * self.grid.size) - 1.0 / self._dt) / self._stencil_diagonal

    def momentum(self, viscosity: float | Tensor, device: torch.device) -> Tensor:
        """The values of F̂ at this rank's frequencies; for viscosities `(B, 1, …)` one after the
        other.
        """
        return 1.0 / self._dt - viscosity * self._laplacian.on(device)

    def solve(self, momentum: Tensor, right: Tensor, transposed: bool = False) -> Tensor:
        """Velocity and pressure for a right-hand side, one field after the other, `(n_local,)`, or
        for several, `(B, n_local)`, in one transform; collective.

        `momentum`: that of the viscosity, or of B viscosities. The pressure has mean 0.
        """
        sign, device, channels = -1.0 if transposed else 1.0, right.device, self.grid.dim + 1
        gradient = [symbol.on(device) for symbol in self._gradient]
        fields = right.reshape(-1, *self.grid.local_shape)
        whole = self._transform.forward(fields)
        # The channels first, so that each is a batch of fields.
        # Not −1 for their number: a rank may have no coefficients.
        count = len(whole) // channels
        hat = whole.view(count, channels, *whole.shape[1:]).transpose(0, 1).clone()
        hat[-1] *= sign
        divergence = sum(-g.conj() * r for g, r in zip(gradient, hat, strict=False))
        pressure = self._inverse_laplacian.on(device) * (divergence - momentum * hat[-1])
        for g, r in zip(gradient, hat, strict=False):
            r -= g * pressure
        hat[:-1] /= momentum
        hat[-1] = sign * pressure
        back = hat.transpose(0, 1).reshape(whole.shape)
        return self._transform.backward(back).reshape(right.shape)


class ConstraintPreconditioner:
    """`M⁻¹` for `A = [[F, G], [D, 0]]`: a damped Jacobi step on the momentum, then `[[F̂, G], [D,
    0]]⁻¹` applied to the residual.

    `u* = ω diag(F)⁻¹ r_u`, then `M⁻¹ r = [u*; 0] + [[F̂, G], [D, 0]]⁻¹ (r − A [u*; 0])`, with ω =
    0.7 and `F̂ = 1/dt − c Δ_h`, where c is the viscosity and the mean numerical viscosity of the
    upwind differences: it makes the diagonal of F̂ the mean of F's. The velocity then satisfies the
    divergence rows exactly. Only diag(F) is set up for a matrix; an application costs a product
    with A and Fourier transforms. Since `Gᵀ = −D` on a periodic grid, the transposed application
    costs the same.

    It is a context of PETSc's PCPYTHON. Sources: Keller, Gould and Wathen, Constraint
    preconditioning for indefinite linear systems (2000); PETSc manual page: PCPYTHON.
    """

    def __init__(self, stokes: PeriodicStokes, memory: Memory = HOST) -> None:
        self._stokes, self._memory = stokes, memory
        self._n = stokes.grid.dim * stokes.grid.n_local
        self._matrix: Any = None

    def setUp(self, pc: PETSc.PC) -> None:
        """Read the diagonal of F."""
        if self._matrix is None:
            self._matrix = pc.getOperators()[1]
            self._in, self._out = self._matrix.createVecs()
        # A reused vector, because on several ranks PETSc delays freeing temporary ones.
        self._matrix.getDiagonal(self._out)
        with viewed(self._out, self._memory, "Read") as whole:
            diagonal = whole[: self._n]
            self._weights = DAMPING / diagonal
            own = float(diagonal.sum())
            viscosity = self._stokes.viscosity(
                self._matrix.comm.tompi4py().allreduce(own, op=MPI.SUM)
            )
            self._momentum = self._stokes.momentum(viscosity, self._memory.device)

    def apply(self, pc: PETSc.PC, right: PETSc.Vec, result: PETSc.Vec) -> None:
        """`M⁻¹ r`."""
        with (
            viewed(right, self._memory, "Read") as r,
            viewed(result, self._memory, "Write") as out,
        ):
            velocity = self._weights * r[: self._n]
            rest = r - self._product(velocity, transposed=False)
            z = self._stokes.solve(self._momentum, rest)
            z[: self._n] += velocity
            out.copy_(z)

    def applyTranspose(self, pc: PETSc.PC, right: PETSc.Vec, result: PETSc.Vec) -> None:  # noqa: N802 - PETSc's name
        """`M⁻ᵀ s = t + [ω diag(F)⁻¹ (s − Aᵀ t)_u; 0]`, where t is the transposed solution for s."""
        with (
            viewed(right, self._memory, "Read") as s,
            viewed(result, self._memory, "Write") as out,
        ):
            z = self._stokes.solve(self._momentum, s, transposed=True)
            z[: self._n] += self._weights * (s - self._product(z, transposed=True))[: self._n]
            out.copy_(z)

    def _product(self, x: Tensor, transposed: bool) -> Tensor:
        """`A [x; 0]`, or `Aᵀ x`."""
        n_local = self._in.getLocalSize()
        argument = torch.nn.functional.pad(x, (0, n_local - x.numel()))
        product = torch.empty_like(argument)
        numbers = (to_memory(one, self._memory) for one in (argument, product))
        with placed(*zip((self._in, self._out), numbers, strict=True)):
            (self._matrix.multTranspose if transposed else self._matrix.mult)(self._in, self._out)
        return product


class BatchedConstraint:
    """The same `M⁻¹` for M matrices and all right-hand sides at once, for batched methods: a
    `BatchedPreconditioner`.

    Parameters
    ----------
    stokes : the solver with constant coefficients.
    matrix : the M matrices, or their transposes.
    weights : the damped inverse of each diagonal, 0 for the pressure, `(M, n_local)`.
    momentum : F̂ at this rank's frequencies, `(M, …)`.
    is_transposed : whether this is `M⁻ᵀ`.
    """

    def __init__(
        self,
        stokes: PeriodicStokes,
        matrix: BatchedMatrix,
        weights: Tensor,
        momentum: Tensor,
        is_transposed: bool = False,
    ) -> None:
        self._stokes, self._matrix, self._is_transposed = stokes, matrix, is_transposed
        self._weights, self._momentum = weights, momentum

    @classmethod
    def of(cls, stokes: PeriodicStokes, matrix: BatchedMatrix) -> BatchedConstraint:
        """That of M matrices; collective."""
        grid, diagonal = stokes.grid, matrix.diagonal()
        own = diagonal[:, : grid.dim * grid.n_local]
        viscosity = stokes.viscosity(all_reduce_sum(own.sum(dim=1), grid.comm))
        momentum = stokes.momentum(viscosity.view(-1, *(1,) * grid.dim), diagonal.device)
        weights = torch.nn.functional.pad(DAMPING / own, (0, grid.n_local))
        return cls(stokes, matrix, weights, momentum)

    def apply(self, r: Tensor) -> Tensor:
        """`M⁻¹ r`, or `M⁻ᵀ r`, for `(M R, n_local)`; collective."""
        each = len(r) // self._matrix.count
        weights, momentum = (
            one.repeat_interleave(each, dim=0) for one in (self._weights, self._momentum)
        )
        if self._is_transposed:
            z = self._solve(momentum, r)
            return torch.addcmul(z, weights, r - self._matrix.product(z))
        velocity = weights * r
        return velocity + self._solve(momentum, r - self._matrix.product(velocity))

    def _solve(self, momentum: Tensor, r: Tensor) -> Tensor:
        return self._stokes.solve(momentum, r, self._is_transposed).to(r.dtype)

    def transposed(self) -> BatchedConstraint:
        """See `BatchedPreconditioner`."""
        arguments = self._matrix.transposed(), self._weights, self._momentum
        return BatchedConstraint(self._stokes, *arguments, not self._is_transposed)

    @property
    def tensors(self) -> list[Tensor]:
        """See `BatchedPreconditioner`."""
        return [*self._matrix.tensors, self._weights, self._momentum]

    def map(self, function: Callable[[Tensor], Tensor]) -> BatchedConstraint:
        """See `BatchedPreconditioner`."""
        tensors = function(self._weights), function(self._momentum)
        return BatchedConstraint(
            self._stokes, self._matrix.map(function), *tensors, self._is_transposed
        )


class DifferentiableConstraint:
    """The same `M⁻¹` in torch, for M matrices: differentiable with respect to r and, through the
    diagonals and products, with respect to the matrices.

    Parameters
    ----------
    stokes : the solver with constant coefficients.
    diagonal : the diagonal of each matrix, `(M, n_local)`, float64.
    """

    def __init__(self, stokes: PeriodicStokes, diagonal: Tensor) -> None:
        grid = stokes.grid
        momentum = diagonal[:, : grid.dim * grid.n_local]
        self._stokes = stokes
        self._weights = torch.nn.functional.pad(DAMPING / momentum, (0, grid.n_local))
        self._viscosity: Tensor = stokes.viscosity(all_reduce_sum(momentum.sum(dim=1), grid.comm))

    def __call__(self, r: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
        """`M⁻¹ r` for `(M R, n_local)`, R consecutive right-hand sides per matrix; `product` is
        `A x` for the same shape. Collective.
        """
        each = len(r) // len(self._weights)
        velocity = self._weights.repeat_interleave(each, dim=0) * r
        viscosity = self._viscosity.repeat_interleave(each)
        z: Tensor = _StokesSolve.apply(viscosity, r - product(velocity), self._stokes, False)  # type: ignore[no-untyped-call]
        return velocity + z


class _StokesSolve(torch.autograd.Function):
    """`z = S(c)⁻¹ r`, or `S(c)⁻ᵀ r`, for each row. With t the transposed solve for ∂L/∂z,
    `∂L/∂r = t` and `∂L/∂c = t_u · Δ_h z_u`, of which each rank computes its part. Differentiable to
    any order.
    """

    @staticmethod
    def forward(viscosity: Tensor, r: Tensor, stokes: PeriodicStokes, transposed: bool) -> Tensor:
        return _solve_rows(stokes, viscosity, r, transposed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        viscosity, _, ctx.stokes, ctx.transposed = inputs
        ctx.save_for_backward(viscosity, output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (viscosity, z), grid = ctx.saved_tensors, ctx.stokes.grid
        t = _StokesSolve.apply(viscosity, grads[0], ctx.stokes, not ctx.transposed)  # type: ignore[no-untyped-call]
        velocities = [
            rows.view(len(z), grid.dim + 1, *grid.local_shape)[:, : grid.dim] for rows in (t, z)
        ]
        slope = (velocities[0] * _laplacian(grid, velocities[1])).flatten(1).sum(dim=1)
        return slope, t, None, None


def _solve_rows(stokes: PeriodicStokes, viscosity: Tensor, r: Tensor, transposed: bool) -> Tensor:
    momentum = stokes.momentum(viscosity.view(-1, *(1,) * stokes.grid.dim), r.device)
    return stokes.solve(momentum, r.detach(), transposed)


def _laplacian(grid: Grid, fields: Tensor) -> Tensor:
    padded, result = grid.halo(fields.contiguous()), torch.zeros_like(fields)
    for axis, h in enumerate(grid.spacing):
        sides = [neighbour(padded, grid.dim, {axis: side}) for side in (-1, 1)]
        result += (sides[0] + sides[1] - 2.0 * fields) / h**2
    return result
