"""The matrix that a lagged preconditioner is made from: a copy of earlier values.

PETSc's own flag, KSPSetReusePreconditioner, keeps only the outermost preconditioner: the blocks of
`bjacobi` and `asm`, the parts of `fieldsplit` and the smoothers of multigrid hold references to the
matrix itself and are set up again, or use its new values directly (PETSc 3.26). A preconditioner
that is made from old and new values depends on more data than a checkpoint can hold.
"""

from __future__ import annotations

from typing import Any

from prdp_hpc.linalg.batch_matrix import BatchMatrix, duplicate
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.sparse_operator import SparseOperator
from prdp_hpc.linalg.torch_petsc import is_aij
from prdp_hpc.petsc import PETSc


class LaggedMatrix:
    """A copy of an operator's matrix, with its preconditioner data.

    Attributes
    ----------
    matrix : the copy.
    """

    def __init__(self, operator: Operator) -> None:
        self._source = operator.matrix
        self.matrix = duplicate(self._source, copy=self._source.isAssembled())
        self._structure = PETSc.Mat.Structure.SAME_NONZERO_PATTERN
        if not isinstance(operator, SparseOperator):
            # The user's code may change the pattern at each assembly.
            self._structure = PETSc.Mat.Structure.DIFFERENT_NONZERO_PATTERN
            self.matrix.setOption(PETSc.Mat.Option.NEW_NONZERO_ALLOCATION_ERR, False)

    def copy_values(self) -> None:
        """Copy the current values of the operator's matrix; collective."""
        self._source.copy(self.matrix, structure=self._structure)


def create_lagged_matrix(operator: Operator, pc: str) -> LaggedMatrix | None:
    """The matrix that a lagged preconditioner of an operator is made from, None if it has no lag.

    There is no lag for M matrices, because each belongs to another sample in the next batch; for
    preconditioners without a set-up; and where no matrix is stored.
    """
    nothing = pc in (PETSc.PC.Type.NONE, PETSc.PC.Type.SHELL)
    if nothing or isinstance(operator, BatchMatrix):
        return None
    source = operator.preconditioning_operator
    return LaggedMatrix(source) if _is_stored(source.matrix) else None


def _is_stored(matrix: Any) -> bool:
    kind = str(matrix.getType()).removeprefix("seq").removeprefix("mpi")
    return is_aij(matrix) or kind in ("baij", "sbaij", "dense")
