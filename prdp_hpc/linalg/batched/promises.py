"""The checks of `prdp_hpc.linalg.promises` for M matrices in torch tensors, on their device."""

from __future__ import annotations

import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.distributed.communicators import private
from prdp_hpc.linalg.batched.matrix import BatchedMatrix
from prdp_hpc.linalg.nullspaces import Nullspace, Nullspaces
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.promises import (
    DOUBLE,
    SINGLE,
    asymmetry,
    check_nullspaces,
    not_symmetric,
    probe,
    remainder,
)


class BatchedPromises:
    """Tests all matrices of one set of values together; collective.

    Parameters
    ----------
    operator : the operator with the promises.
    matrix : the matrices that are tested.
    values : `(M, nnz_local)`, in double precision.
    """

    def __init__(self, operator: Operator, matrix: BatchedMatrix, values: Tensor) -> None:
        self._operator, self._matrix, self._values = operator, matrix, values
        self._comm: MPI.Comm = operator.comm

    def require(self, ksp: str, needs_symmetry: bool) -> None:
        """Raise an InputError on all ranks if the values violate a promise of the operator or a
        requirement of the method.
        """
        operator = self._operator
        relying = [f"ksp={ksp!r}"] if needs_symmetry else []
        relying += ["symmetric=True"] if operator.symmetric else []
        if relying and not (operator.symmetric and operator.promises_hold):
            found = self._asymmetry()
            if found is not None:
                raise not_symmetric(" and ".join(relying), found)
        if operator.nullspaces is not None and not operator.promises_hold:
            self._require_nullspaces(operator.nullspaces)

    def _require_nullspaces(self, nullspaces: Nullspaces) -> None:
        check_nullspaces(nullspaces, self._operator.symmetric, self._remainder)

    def _asymmetry(self) -> str | None:
        sizes = self._matrix.diagonal().abs()
        sizes = torch.where(sizes > 0.0, sizes, self._matrix.row_sizes())
        sizes = torch.where(sizes > 0.0, sizes, 1.0)
        # With these r all terms of a row have equal size if A is scaled from both sides.
        r = self._probe(0) / sizes.sqrt()
        straight, turned = self._matrix.product(r), self._matrix.transposed().product(r)
        terms = torch.maximum(straight.abs(), turned.abs())
        found = self._first_above((straight - turned).abs(), torch.maximum(terms, sizes.sqrt()))
        return None if found is None else asymmetry(found[0], found[1] / found[2])

    def _remainder(self, nullspace: Nullspace, transposed: bool) -> str | None:
        matrix = self._matrix.transposed() if transposed else self._matrix
        basis, many = nullspace.tensor.to(self._values.device), (matrix.count, 1)
        largest = basis.abs().amax(dim=0)
        # The size of the terms of each row is estimated by two sums with random weights, because
        # one of them may cancel by chance.
        terms = [matrix.product((self._probe(n) * largest).repeat(many)).abs() for n in (0, 1)]
        scale = torch.maximum(*terms)
        for index, vector in enumerate(basis):
            found = self._first_above(matrix.product(vector.repeat(many)).abs(), scale)
            if found is not None:
                return remainder(transposed, index if len(basis) > 1 else None, *found)
        return None

    def _probe(self, which: int) -> Tensor:
        start, end = (bound + (which << 40) for bound in self._operator.row_range)
        return torch.from_numpy(probe(start, end)).to(self._values.device)

    def _first_above(self, error: Tensor, scale: Tensor) -> tuple[int, float, float] | None:
        """The first row whose error exceeds rounding, its error and its scale."""
        agreement = private(self._comm).agreement
        for tolerance in (DOUBLE, SINGLE):
            above = error > tolerance * scale
            found = None
            if above.any():
                matrix, row = (int(i) for i in above.nonzero()[0])
                number = self._operator.row_range[0] + row
                found = (number, float(error[matrix, row]), float(scale[matrix, row]))
            everywhere = [one for one in agreement.allgather(found) if one is not None]
            if not everywhere:
                return None
            is_single = bool((self._values.float() == self._values).all())
            if tolerance == DOUBLE and not agreement.allreduce(is_single, op=MPI.LAND):
                break
        first: tuple[int, float, float] = everywhere[0]
        return first
