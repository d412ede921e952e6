"""Preconditioners of M matrices, applied to all right-hand sides at once.

Each is a product of tensors, and so has its transpose: incomplete factorisations, whose triangular
solves go row by row, are not among them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from prdp_hpc.linalg.batched.matrix import BatchedMatrix


class BatchedPreconditioner(Protocol):
    """`M⁻¹` for M matrices."""

    def apply(self, r: Tensor) -> Tensor:
        """`M⁻¹ r` for `(M R, n_local)`; collective, not recorded."""

    def transposed(self) -> BatchedPreconditioner:
        """`M⁻ᵀ`."""

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that an application reads."""

    def map(self, function: Callable[[Tensor], Tensor]) -> BatchedPreconditioner:
        """The same with `function(tensor)` for each of `tensors`."""


class Identity:
    """pc="none"."""

    def apply(self, r: Tensor) -> Tensor:
        """See `BatchedPreconditioner`."""
        return r

    def transposed(self) -> Identity:
        """See `BatchedPreconditioner`."""
        return self

    @property
    def tensors(self) -> list[Tensor]:
        """See `BatchedPreconditioner`."""
        return []

    def map(self, function: Callable[[Tensor], Tensor]) -> Identity:
        """See `BatchedPreconditioner`."""
        return self


class Jacobi:
    """pc="jacobi": `z = r / diag(A)`; PETSc manual page: PCJACOBI.

    Attributes
    ----------
    inverse : `(M, n_local)`.
    """

    def __init__(self, inverse: Tensor) -> None:
        self.inverse = inverse

    @classmethod
    def of(cls, diagonal: Tensor) -> Jacobi:
        """Make it from the diagonals `(M, n_local)`; a zero is replaced by 1, as in PETSc."""
        return cls(1.0 / torch.where(diagonal == 0.0, 1.0, diagonal))

    def apply(self, r: Tensor) -> Tensor:
        """See `BatchedPreconditioner`."""
        if len(self.inverse) == 1:
            return r * self.inverse
        matrices = len(self.inverse)
        rows = r.view(matrices, len(r) // matrices, r.shape[-1])
        return (rows * self.inverse[:, None]).view(r.shape)

    def transposed(self) -> Jacobi:
        """See `BatchedPreconditioner`."""
        return self

    @property
    def tensors(self) -> list[Tensor]:
        """See `BatchedPreconditioner`."""
        return [self.inverse]

    def map(self, function: Callable[[Tensor], Tensor]) -> Jacobi:
        """See `BatchedPreconditioner`."""
        return Jacobi(function(self.inverse))


class DenseBlocks:
    """pc="pbjacobi" and pc="bjacobi": the inverses of blocks on the diagonal, of neighbouring rows
    of a rank; PETSc manual pages: PCPBJACOBI, PCBJACOBI.

    Attributes
    ----------
    inverses : `(M, blocks, size, size)`.
    """

    def __init__(self, inverses: Tensor) -> None:
        self.inverses = inverses

    def apply(self, r: Tensor) -> Tensor:
        """See `BatchedPreconditioner`."""
        count, blocks, size, _ = self.inverses.shape
        parts = r.view(count, len(r) // count, blocks, size)
        return torch.einsum("mbij,mrbj->mrbi", self.inverses, parts).reshape(r.shape)

    def transposed(self) -> DenseBlocks:
        """See `BatchedPreconditioner`."""
        return DenseBlocks(self.inverses.mT.contiguous())

    @property
    def tensors(self) -> list[Tensor]:
        """See `BatchedPreconditioner`."""
        return [self.inverses]

    def map(self, function: Callable[[Tensor], Tensor]) -> DenseBlocks:
        """See `BatchedPreconditioner`."""
        return DenseBlocks(function(self.inverses))


class Chebyshev:
    """pc="chebyshev": a polynomial in `D⁻¹ A`, D the diagonal, that is small on an interval.

    `degree` steps of Chebyshev's iteration from zero; the polynomial is the best one on the
    interval `[least, largest]` of eigenvalues, and positive definite for a positive definite A
    whose eigenvalues do not lie above it. It needs no inner products. Sources: Saad, Iterative
    Methods for Sparse Linear Systems (2003), section 12.3; PETSc manual page: KSPCHEBYSHEV.

    Parameters
    ----------
    matrix, jacobi : A and `D⁻¹`.
    degree : applications of `D⁻¹`, one more than of A.
    bounds : `(2, M)`, the interval for each matrix.
    """

    def __init__(self, matrix: BatchedMatrix, jacobi: Jacobi, degree: int, bounds: Tensor) -> None:
        self._matrix, self._jacobi, self._degree, self.bounds = matrix, jacobi, degree, bounds

    def apply(self, r: Tensor) -> Tensor:
        """See `BatchedPreconditioner`."""
        each = len(r) // self.bounds.shape[1]
        least, most = self.bounds.repeat_interleave(each, dim=1).unsqueeze(-1)
        middle, half = (most + least) / 2.0, (most - least) / 2.0
        sigma = middle / half
        rho = 1.0 / sigma
        step = self._jacobi.apply(r) / middle
        z: Tensor = step
        for _ in range(self._degree - 1):
            following = 1.0 / (2.0 * sigma - rho)
            rest = self._jacobi.apply(r - self._matrix.product(z))
            step = following * rho * step + (2.0 * following / half) * rest
            z, rho = z + step, following
        return z

    def transposed(self) -> Chebyshev:
        """See `BatchedPreconditioner`."""
        return Chebyshev(self._matrix.transposed(), self._jacobi, self._degree, self.bounds)

    @property
    def tensors(self) -> list[Tensor]:
        """See `BatchedPreconditioner`."""
        return [*self._matrix.tensors, *self._jacobi.tensors, self.bounds]

    def map(self, function: Callable[[Tensor], Tensor]) -> Chebyshev:
        """See `BatchedPreconditioner`."""
        parts = self._matrix.map(function), self._jacobi.map(function)
        return Chebyshev(*parts, self._degree, function(self.bounds))
