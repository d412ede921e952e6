"""The matrices of a batch, which share one operator's pattern."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from torch import Tensor

from prdp_hpc.linalg.arrays import Numbers
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.pattern import declare_symmetric
from prdp_hpc.linalg.preconditioning_matrix import PreconditioningMatrix
from prdp_hpc.linalg.torch_petsc import put_values

if TYPE_CHECKING:
    from prdp_hpc.linalg.sparse_operator import SparseOperator


class BatchMatrix(Operator):
    """One of M matrices: a PETSc matrix with values; all other properties are those of the operator
    whose pattern it shares.
    """

    def __init__(self, shared: SparseOperator) -> None:
        super().__init__(shared.comm, shared.symmetric, shared.grid)
        # The operator owns the pool that owns this object: a strong reference to the operator would
        # be a cycle, which is freed only by Python's garbage collection.
        self._shared = weakref.ref(shared)
        self.memory = shared.memory
        self.matrix = duplicate(shared.matrix)
        self.nullspaces, self.promises_hold = shared.nullspaces, shared.promises_hold

    @property
    def shared(self) -> SparseOperator:
        """The operator whose pattern this matrix has."""
        shared = self._shared()
        assert shared is not None, "a matrix of a batch is used after its operator was freed"
        return shared

    @property
    def preconditioner(self) -> PreconditioningMatrix | None:
        """The operator's preconditioning matrix."""
        return self.shared.preconditioner

    @preconditioner.setter
    def preconditioner(self, pair: Any) -> None:
        self.shared.preconditioner = pair

    def has_single_values(self) -> bool:
        """See `Operator`."""
        return self.loaded.are_single()

    def check_form(self, values: Any) -> Exception | None:
        """See `SparseOperator`."""
        return self.shared.check_form(values)

    def check_numbers(self, host: Numbers | None) -> Exception | None:
        """See `SparseOperator`."""
        return self.shared.check_numbers(host)

    def check_preconditioner(self, pc: str) -> None:
        """See `Operator`."""
        self.shared.check_preconditioner(pc)

    def attach_preconditioner(self, pc: Any, name: str) -> None:
        """See `Operator`."""
        self.shared.attach_preconditioner(pc, name)

    def _put(self, host: Numbers | None) -> None:
        put_values(self.matrix, self.shared.coo_values(host))

    def diagonal_of(self, values: Tensor) -> Tensor:
        """See `SparseOperator`."""
        return self.shared.diagonal_of(values)

    def values_gradient(self, values: Tensor, adjoint: Tensor, solution: Tensor) -> Tensor:
        """See `SparseOperator`."""
        return self.shared.values_gradient(values, adjoint, solution)

    def tangent_product(
        self, values: Tensor, tangent: Tensor, x: Tensor, transposed: bool = False
    ) -> Tensor:
        """See `SparseOperator`."""
        return self.shared.tangent_product(values, tangent, x, transposed)


def duplicate(matrix: Any, copy: bool = False) -> Any:
    """A matrix of the same pattern, with values only if `copy` is set, and with the nullspaces and
    the known symmetry, which PETSc does not copy (the latter not without values).
    """
    twin = matrix.duplicate(copy=copy)
    if not copy and all(matrix.isSymmetricKnown()):
        declare_symmetric(twin)
    for kind in ("NullSpace", "TransposeNullSpace", "NearNullSpace"):
        nullspace = getattr(matrix, f"get{kind}")()
        if nullspace:
            getattr(twin, f"set{kind}")(nullspace)
    return twin
