"""The matrices of one solve, from the forward pass to the last derivative."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.arrays import Numbers
from prdp_hpc.linalg.batch_matrix import BatchMatrix
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.pool import Lease
from prdp_hpc.linalg.reductions import anywhere
from prdp_hpc.linalg.sparse_operator import SparseOperator
from prdp_hpc.linalg.torch_petsc import to_memory


class HeldMatrices:
    """The matrices of a solve with their values: the operator's, or M matrices of its pool.

    Derivatives of a solve use the values of the solve. If other values were loaded into a matrix in
    the meantime, the earlier ones are loaded again; it is an error if the tensor of the values was
    changed in place.

    Parameters
    ----------
    operator : the operator of the values.
    host : the values in double precision in the operator's memory; those of one matrix are
        loaded already, and may be None.

    Attributes
    ----------
    operators : one for each matrix.
    """

    def __init__(self, operator: Operator, host: Numbers | None) -> None:
        self._operator = operator
        self._lease: Lease[BatchMatrix] | None = None
        self.operators: list[Any] = [operator]
        self._loads = [operator.loaded.remember()]
        if host is not None and host.ndim == 2 and isinstance(operator, SparseOperator):
            self._lease = operator.acquire_matrices(len(host))
            self.operators = list(self._lease[: len(host)])
            for member, own in zip(self.operators, host, strict=True):
                member.load(own)
            self._loads = [one.loaded.remember() for one in self.operators]

    def restore(self, values: Tensor | None, values_are_read: bool = False) -> None:
        """Load the values again where others have replaced them; collective.

        `values_are_read`: whether derivatives read the tensor too, so that it must be unchanged.

        Raises
        ------
        InputError
            On all ranks, if the tensor's numbers are no longer those of the solve.
        """
        if self._lease is not None:
            self._sparse.touch_matrices(self._lease)
        elif not values_are_read and self._operator.holds(self._loads[0]):
            return
        pairs = list(zip(self.operators, self._loads, strict=True))
        gone = [not one.holds(load) for one, load in pairs]
        if not any(gone) and not values_are_read:
            return
        host = None if values is None else to_memory(values, self._operator.memory)
        rows: Any = [host] if self._lease is None else host
        changed = any(
            one.loaded.changed_since(load, own)
            for (one, load), own in zip(pairs, rows, strict=True)
        )
        raise_together(self._operator.comm, _changed() if changed else None)
        for index, (one, own) in enumerate(zip(self.operators, rows, strict=True)):
            # The same values may have been loaded into one matrix again in the meantime.
            if gone[index] and (self._lease is not None or anywhere(one.comm, one.differs(own))):
                one.load(own)
            self._loads[index] = one.loaded.remember()

    def release(self) -> None:
        """Release the matrices; a later derivative acquires them again."""
        if self._lease is not None:
            self._sparse.release_matrices(self._lease)

    @property
    def _sparse(self) -> SparseOperator:
        """The operator that the matrices are leased from."""
        assert isinstance(self._operator, SparseOperator)
        return self._operator


def _changed() -> InputError:
    return InputError(
        "the values were changed between the solve and its derivative, without autograd "
        "(through .data, NumPy or a view without version): change them after the backward pass, or "
        "pass a copy to solve (values.clone())"
    )
