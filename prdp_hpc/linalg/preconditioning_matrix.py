"""A separate matrix that preconditioners are made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.arrays import as_tensor, copied
from prdp_hpc.linalg.reductions import anywhere
from prdp_hpc.linalg.torch_petsc import to_memory

if TYPE_CHECKING:
    from prdp_hpc.linalg.operator import Operator


class PreconditioningMatrix:
    """An operator P with its values, which replaces A in the set-up of preconditioners.

    PETSc manual page: KSPSetOperators, where it is called Pmat.

    Attributes
    ----------
    operator : P.
    values : its values, in double precision in the operator's memory, a copy.
    """

    def __init__(self, operator: Operator, values: Tensor | None) -> None:
        self.operator = operator
        self.values = None if values is None else copied(to_memory(values, operator.memory))

    def on(self, device: torch.device) -> PreconditioningMatrix:
        """The same for an operator on a device; collective."""
        return PreconditioningMatrix(
            self.operator.on(device), None if self.values is None else as_tensor(self.values)
        )

    def load(self) -> None:
        """Load the values into the matrix unless they are loaded; collective."""
        if anywhere(self.operator.comm, self.operator.differs(self.values)):
            self.operator.load(self.values)


def create_preconditioning_matrix(operator: Operator, pair: Any) -> PreconditioningMatrix | None:
    """Check an operator's argument `preconditioner` and convert it; collective.

    Raises
    ------
    ValueError
        On all ranks: unless it is a pair of an operator with the same rows and its values.
    """
    raise_together(operator.comm, _validate(operator, pair))
    return None if pair is None else PreconditioningMatrix(*pair)


def _validate(operator: Operator, pair: Any) -> Exception | None:
    if pair is None:
        return None
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not hasattr(pair[0], "check_form"):
        return InputError(
            "preconditioner must be a pair (operator, values) whose matrix the preconditioner is "
            "made from, e.g. from SparseOperator.from_scipy; for a function pass "
            "Solver(pc=ShellPreconditioner(...))"
        )
    other, values = pair
    if other is operator:
        return InputError(
            "an operator is preconditioned with its own matrix by default: pass another"
        )
    if other.row_range != operator.row_range:
        return InputError(
            f"the preconditioner's matrix has rows {other.row_range} (first, and one after the "
            f"last) on this rank, but the operator {operator.row_range}: they must be equal"
        )
    wrong: Exception | None = other.check_form(values)
    if wrong is None and isinstance(values, Tensor) and other.takes_batches and values.dim() == 2:
        wrong = InputError(
            "a preconditioner is made from one matrix: its values have shape (nnz_local,)"
        )
    if wrong is None and values is not None:
        wrong = other.check_numbers(to_memory(values, other.memory))
    return wrong
