"""The system of a batched solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mpi4py import MPI
from torch import Tensor

from prdp_hpc.linalg.batched.device_kernels import kernels_for
from prdp_hpc.linalg.batched.matrix import BatchedMatrix
from prdp_hpc.linalg.batched.preconditioners import BatchedPreconditioner, Identity, Jacobi
from prdp_hpc.linalg.unrolled.operations import PlainOperations
from prdp_hpc.linalg.unrolled.reductions import all_reduce
from prdp_hpc.linalg.unrolled.system import without_span


@dataclass(eq=False)
class BatchedSystem(PlainOperations):
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
        """`M⁻¹ r`; on the left side without its part in the nullspace."""
        z = self.preconditioner.apply(r)
        return z if self.right_side else self.without_nullspace(z)

    def curvature(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """See `PlainOperations`."""
        ap, own = self.matrix.product_and_dot(p)
        return ap, all_reduce(own, self.comm)

    def descend(
        self, x: Tensor, r: Tensor, alpha: Tensor, p: Tensor, ap: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """See `PlainOperations`; with kernels, `turn` computes z again from r."""
        kernels = self._kernels(r)
        if kernels is None:
            return super().descend(x, r, alpha, p, ap)
        x, r, own = kernels.descend(x, r, alpha, p, ap, self._inverse)
        zr, zz = all_reduce(own, self.comm).split(1, dim=1)
        return x, r, r, zr, zz

    def turn(self, z: Tensor, beta: Tensor, p: Tensor) -> Tensor:
        """See `PlainOperations`."""
        kernels = self._kernels(z)
        if kernels is None:
            return super().turn(z, beta, p)
        result: Tensor = kernels.turn(z, beta, p, self._inverse)
        return result

    @property
    def _inverse(self) -> Tensor | None:
        """The inverse diagonal of the Jacobi preconditioner, or None."""
        return self.preconditioner.inverse if isinstance(self.preconditioner, Jacobi) else None

    def _kernels(self, r: Tensor) -> Any:
        """The kernels that compute a step in fewer passes, or None."""
        is_diagonal = isinstance(self.preconditioner, Jacobi | Identity)
        if not is_diagonal or self.nullspaces[0] is not None or self.right_side:
            return None
        return kernels_for(r)

    def without_nullspace(self, x: Tensor) -> Tensor:
        """`x` minus its part in the matrix's nullspace."""
        return without_span(self.comm, self.nullspaces[0], x)

    def without_left_nullspace(self, x: Tensor) -> Tensor:
        """`x` minus its part in the nullspace of the transpose."""
        return without_span(self.comm, self.nullspaces[1], x)

    def transposed(self, right_side: bool) -> BatchedSystem:
        """The system of Aᵀ with M⁻ᵀ; collective."""
        return replace(
            self,
            matrix=self.matrix.transposed(),
            preconditioner=self.preconditioner.transposed(),
            right_side=right_side,
            nullspaces=self.nullspaces[::-1],
        )

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that products and preconditioners read, except index tensors."""
        bases = [basis for basis in self.nullspaces if basis is not None]
        return [*self.matrix.tensors, *self.preconditioner.tensors, *bases]

    def map(self, function: Callable[[Tensor], Tensor]) -> BatchedSystem:
        """The same with `function(tensor)` for each of `tensors`."""
        right, left = self.nullspaces
        return replace(
            self,
            matrix=self.matrix.map(function),
            preconditioner=self.preconditioner.map(function),
            nullspaces=(
                None if right is None else function(right),
                None if left is None else function(left),
            ),
        )
