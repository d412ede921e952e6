"""Preconditioners of M matrices, applied to all right-hand sides at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class BatchedPreconditioner(Protocol):
    """`M⁻¹` for M matrices."""

    def apply(self, r: Tensor) -> Tensor:
        """`M⁻¹ r` for `(M R, n_local)`; collective, not recorded."""

    def transposed(self) -> BatchedPreconditioner:
        """`M⁻ᵀ`."""

    @property
    def tensors(self) -> list[Tensor]:
        """What an application reads."""

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
        """From the diagonals `(M, n_local)`; a zero counts as 1, as in PETSc."""
        return cls(1.0 / torch.where(diagonal == 0.0, 1.0, diagonal))

    def apply(self, r: Tensor) -> Tensor:
        """See `BatchedPreconditioner`."""
        if len(self.inverse) == 1:
            return r * self.inverse
        return (r.view(len(self.inverse), -1, r.shape[-1]) * self.inverse[:, None]).view(r.shape)

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
