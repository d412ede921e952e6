"""A preconditioner for velocity and pressure together: momentum by Jacobi, then a projection."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray
from petsc4py import PETSc

from prdp_hpc.grid import Grid
from prdp_hpc.physics.fourier import FourierTransform

Array = NDArray[np.float64]

DAMPING = 0.7  # of the Jacobi step: best of 0.5 … 1 on the paper's states


class PeriodicStokes:
    """`[[F̂, G], [D, 0]]` on a periodic staggered grid, with constant coefficients: `F̂ = a − c Δ_h`.

    Diagonal in Fourier space but for one small block a frequency: with the symbols `g` of G, `d = −ḡ` of D and `λ = d·g` of the
    Laplacian, `p̂ = (d·r̂_u − F̂ r̂_p) / λ` and `û = (r̂_u − g p̂) / F̂`. One transform serves all matrices on a grid.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._transform = FourierTransform(grid)
        phases = [np.exp(2j * np.pi * k / n) - 1.0 for k, n in zip(self._transform.frequencies, grid.shape, strict=True)]
        # Component c is along the last axis but c.
        self._gradient = [phase / h for phase, h in zip(phases, grid.spacing, strict=True)][::-1]
        self.laplacian: Array = sum((-(g * g.conj()).real for g in self._gradient), np.zeros(1))
        constant = self.laplacian == 0.0
        self._inverse_laplacian = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, self.laplacian))

    def solve(self, momentum: Array, fields: Array) -> Array:
        """Velocity and pressure `(dim + 1, *local_shape)` for a right-hand side of that shape; collective.

        `momentum`: the values of F̂ at this rank's frequencies. The pressure has mean 0.
        """
        hat = self._transform.forward(fields)
        divergence = sum(-g.conj() * r for g, r in zip(self._gradient, hat, strict=False))
        pressure = self._inverse_laplacian * (divergence - momentum * hat[-1])
        for g, r in zip(self._gradient, hat, strict=False):
            r -= g * pressure
        hat[:-1] /= momentum
        hat[-1] = pressure
        return self._transform.backward(hat)


class ConstraintPreconditioner:
    """`M⁻¹` for `A = [[F, G], [D, 0]]`: a damped Jacobi step on the momentum, then `[[F̂, G], [D, 0]]⁻¹` on what is left.

    `u* = ω diag(F)⁻¹ r_u`, then `M⁻¹ r = [u*; 0] + [[F̂, G], [D, 0]]⁻¹ (r − A [u*; 0])`, with ω = 0.7 and
    `F̂ = 1/dt − c Δ_h`, where c is the viscosity and the mean numerical viscosity of the upwind differences: it makes the
    diagonal of F̂ the mean of F's. The velocity then satisfies the divergence rows exactly. Only diag(F) is set up for
    a matrix; an application costs a product with A and Fourier transforms. Since `Gᵀ = −D` on a periodic grid, the
    transposed application costs the same.

    A context of PETSc's PCPYTHON. Sources: Keller, Gould and Wathen, Constraint preconditioning for indefinite linear systems
    (2000); PETSc manual page: PCPYTHON.
    """

    def __init__(self, stokes: PeriodicStokes, dt: float) -> None:
        self._stokes, self._dt = stokes, dt
        grid = stokes.grid
        self._shape, self._n = (grid.dim + 1, *grid.local_shape), grid.dim * grid.n_local
        self._matrix: Any = None
        self._stencil_diagonal = 2.0 * sum(1.0 / h**2 for h in grid.spacing)

    def setUp(self, pc: PETSc.PC) -> None:
        """Take the diagonal of F."""
        if self._matrix is None:
            self._matrix = pc.getOperators()[1]
            self._in, self._out = self._matrix.createVecs()
        diagonal = self._matrix.getDiagonal().getArray()[: self._n]
        self._weights = DAMPING / diagonal
        total = self._matrix.comm.tompi4py().allreduce(float(diagonal.sum()), op=MPI.SUM)
        viscosity = (total / (self._stokes.grid.dim * self._stokes.grid.size) - 1.0 / self._dt) / self._stencil_diagonal
        self._momentum = 1.0 / self._dt - viscosity * self._stokes.laplacian

    def apply(self, pc: PETSc.PC, right: PETSc.Vec, result: PETSc.Vec) -> None:
        """`M⁻¹ r`."""
        r = right.getArray(readonly=True)
        velocity = self._weights * r[: self._n]
        z = self._solve(r - self._product(velocity, transposed=False))
        z[: self._n] += velocity
        result.setArray(z)

    def applyTranspose(self, pc: PETSc.PC, right: PETSc.Vec, result: PETSc.Vec) -> None:  # noqa: N802 - PETSc's name
        """`M⁻ᵀ s = t + [ω diag(F)⁻¹ (s − Aᵀ t)_u; 0]`, where t solves with `[[F̂, −G], [−D, 0]]`: signs of the pressure."""
        s = right.getArray(readonly=True)
        flipped = s.copy()
        flipped[self._n :] *= -1.0
        z = self._solve(flipped)
        z[self._n :] *= -1.0
        z[: self._n] += self._weights * (s - self._product(z, transposed=True))[: self._n]
        result.setArray(z)

    def _product(self, x: Array, transposed: bool) -> Array:
        """`A [x; 0]`, or `Aᵀ x`."""
        argument = self._in.getArray()
        argument[: x.size], argument[x.size :] = x, 0.0
        (self._matrix.multTranspose if transposed else self._matrix.mult)(self._in, self._out)
        product: Array = self._out.getArray(readonly=True)
        return product

    def _solve(self, right: Array) -> Array:
        return self._stokes.solve(self._momentum, right.reshape(self._shape)).ravel()
