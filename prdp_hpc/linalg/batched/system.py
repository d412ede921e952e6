"""What a method iterates on in a batched solve."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.linalg.batched.matrix import BatchedMatrix
from prdp_hpc.linalg.batched.preconditioners import BatchedPreconditioner
from prdp_hpc.linalg.unrolled.system import without_span


@dataclass(eq=False)
class BatchedSystem:
    """M matrices or their transposes with preconditioners and nullspaces: see `System` of
    `prdp_hpc.linalg.unrolled.system`. Nothing is recorded.

    Attributes
    ----------
    comm : the ranks.
    matrix, preconditioner : of all right-hand sides.
    right_side : whether the preconditioner is applied from the right.
    nullspaces : bases `(k, n_local)` of the nullspaces of the matrix and of its transpose.
    """

    comm: MPI.Comm
    matrix: BatchedMatrix
    preconditioner: BatchedPreconditioner
    right_side: bool
    nullspaces: tuple[Tensor | None, Tensor | None] = (None, None)

    def product(self, x: Tensor) -> Tensor:
        """`A x`."""
        return self.matrix.product(x)

    def precondition(self, r: Tensor) -> Tensor:
        """`M⁻¹ r`; from the left, without its part in the nullspace."""
        z = self.preconditioner.apply(r)
        return z if self.right_side else self.without_nullspace(z)

    def without_nullspace(self, x: Tensor) -> Tensor:
        """`x` minus its part in the matrix's nullspace."""
        return without_span(self.comm, self.nullspaces[0], x)

    def without_left_nullspace(self, x: Tensor) -> Tensor:
        """`x` minus its part in the nullspace of the transpose."""
        return without_span(self.comm, self.nullspaces[1], x)

    def transposed(self, right_side: bool) -> BatchedSystem:
        """With Aᵀ and M⁻ᵀ; collective."""
        return replace(
            self,
            matrix=self.matrix.transposed(),
            preconditioner=self.preconditioner.transposed(),
            right_side=right_side,
            nullspaces=self.nullspaces[::-1],
        )

    def in_precision(self, dtype: torch.dtype) -> BatchedSystem:
        """The same in another precision."""
        right, left = self.nullspaces
        return replace(
            self,
            matrix=self.matrix.in_precision(dtype),
            preconditioner=self.preconditioner.in_precision(dtype),
            nullspaces=(_in_precision(right, dtype), _in_precision(left, dtype)),
        )


def _in_precision(basis: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if basis is None else basis.to(dtype)
