"""Matrices that another code assembled: PETSc matrices, and local rows in CSR form."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.distributed.communicators import private
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.array_types import IntegerArray, RealArray
from prdp_hpc.linalg.nullspaces import vectors_of
from prdp_hpc.linalg.torch_petsc import Array
from prdp_hpc.petsc import PETSc

STORED = ("aij", "baij", "sbaij", "dense", "nest")
"""Types of matrices, without "seq" and "mpi", whose entries can be read."""


class LocalRows(NamedTuple):
    """This rank's rows of a matrix: `rows`, `cols` and `data` of each entry, shape `(nnz_local,)`,
    and the number of its rows.
    """

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    data: Array
    n_local: int


def rows_of_petsc(matrix: Any) -> LocalRows:
    """The entries of an assembled matrix; collective where the matrix has to be converted.

    PETSc manual pages: MatConvert, MatGetRow.
    """
    stored = _kind(matrix) == "aij"
    aij = matrix if stored else matrix.convert("aij", out=PETSc.Mat())
    start, end = aij.getOwnershipRange()
    first, cols, data = aij.getValuesCSR()
    rows = np.repeat(np.arange(start, end), np.diff(first))
    found = LocalRows(rows, cols.astype(np.int64), np.array(data), int(end - start))
    if not stored:
        aij.destroy()
    return found


def checked_matrix(matrix: Any) -> Any:
    """Return `matrix` if it is a PETSc matrix, else raise an InputError on this rank."""
    if not isinstance(matrix, PETSc.Mat) or not matrix.handle:
        raise InputError(f"a petsc4py Mat is needed, not {type(matrix).__name__}")
    return matrix


def validate_petsc_matrix(matrix: Any) -> InputError | None:
    """The error for a matrix whose entries cannot be read, or None."""
    if _kind(matrix) not in STORED:
        return InputError(
            f"from_petsc reads matrices that store their entries ({', '.join(STORED)}), not one of "
            f"type {matrix.getType()!r}: convert it (Mat.convert('aij')), or use FunctionOperator "
            "or AssembledOperator"
        )
    if not matrix.isAssembled():
        return InputError("the matrix is not assembled: call its assemble() first")
    return validate_layout(matrix)


def validate_layout(matrix: Any) -> InputError | None:
    """The error for a matrix whose sizes do not allow solves, or None."""
    rows, cols = matrix.getSizes()
    if rows[1] != cols[1] or rows[0] != cols[0]:
        return InputError(
            "the operator of a solve must be square, with rows and columns divided among the ranks "
            f"in the same way; on this rank (local, global) rows are {rows} and columns {cols}"
        )
    return None


def attached_to(matrix: Any) -> dict[str, Any]:
    """The data that the user attached to a matrix, as options of `SparseOperator`: block size,
    nullspaces and near-nullspace.
    """
    n_local = matrix.getLocalSize()[0]
    options: dict[str, Any] = {"block_size": matrix.getBlockSize()}
    nullspace = matrix.getNullSpace()
    if nullspace.handle and not nullspace.getVecs():
        options["constant_nullspace"] = nullspace.hasConstant()
    elif nullspace.handle:
        options["nullspace"] = vectors_of(nullspace, n_local)
    for option, other in (
        ("left_nullspace", matrix.getTransposeNullSpace()),
        ("near_nullspace", matrix.getNearNullSpace()),
    ):
        if other.handle:
            options[option] = vectors_of(other, n_local)
    return options


def rows_of_csr(
    comm: MPI.Comm, indptr: IntegerArray, indices: IntegerArray, data: RealArray
) -> LocalRows:
    """The entries of this rank's rows, which follow those of the rank before; collective.

    Raises an InputError on this rank for arrays that are not a CSR matrix, after communication.
    """
    first, cols = np.asarray(indptr), np.asarray(indices)
    numbers = data.detach().cpu().numpy() if isinstance(data, Tensor) else np.asarray(data)
    n_local = max(first.size - 1, 0)
    start = cast("MPI.Intracomm", private(comm).agreement).scan(n_local) - n_local
    whole = first.ndim == 1 and first.size > 0 and first.dtype.kind in "iu"
    if not whole or first[0] != 0 or (np.diff(first) < 0).any() or first[-1] != cols.size:
        raise InputError(
            "indptr must be increasing integers from 0 to the number of indices, one per row of "
            f"this rank and one more; it has shape {first.shape}, and there are "
            f"{cols.size} indices"
        )
    if cols.shape != numbers.shape or cols.ndim != 1:
        raise InputError(
            f"indices and data must be two lists of the same length, not of shapes {cols.shape} "
            f"and {numbers.shape}"
        )
    if numbers.dtype.kind not in "fiub":
        raise InputError(f"the matrix must hold real numbers, not {numbers.dtype}")
    rows = np.repeat(np.arange(start, start + n_local), np.diff(first))
    return LocalRows(rows, cols, np.array(numbers, dtype=np.float64), n_local)


def _kind(matrix: Any) -> str:
    return str(matrix.getType()).removeprefix("seq").removeprefix("mpi")
