"""Patterns and entries of sparse matrices in the user's formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.number_checks import is_integer
from prdp_hpc.petsc import PETSc

Entries = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Pattern:
    """The entries and the division of a matrix, which operators in different memories share.

    Attributes
    ----------
    rows, cols : global indices of this rank's entries, in PETSc's integers.
    shape : the global shape.
    n_local : number of rows of this rank.
    block_size : unknowns per node.
    """

    rows: NDArray[Any]
    cols: NDArray[Any]
    shape: tuple[int, int]
    n_local: int
    block_size: int

    def create_matrix(self, comm: MPI.Comm, matrix_type: str) -> Any:
        """A PETSc matrix of this pattern, without values; collective."""
        sizes = (self.n_local, self.shape[0])
        matrix = PETSc.Mat().create(comm=comm)
        matrix.setSizes((sizes, sizes))
        matrix.setType(matrix_type)
        matrix.setBlockSize(self.block_size)
        # Copies, because PETSc may reorder the arrays.
        matrix.setPreallocationCOO(self.rows.copy(), self.cols.copy())
        return matrix


def entries_of(matrix: Any) -> Entries:
    """Rows, columns, numbers and shape of a SciPy sparse matrix, a torch tensor or an array, sorted
    by rows and without duplicates.
    """
    if isinstance(matrix, Tensor):
        rows, cols, data = _entries_of_tensor(matrix)
    elif hasattr(matrix, "tocsr"):
        _check_numbers(matrix.dtype, matrix.ndim)
        csr = matrix.tocsr(copy=True)
        csr.sum_duplicates()
        coo = csr.tocoo()
        rows, cols, data = coo.row, coo.col, coo.data
    else:
        array = _as_array(matrix)
        _check_numbers(array.dtype, array.ndim)
        rows, cols = np.nonzero(array)
        data = array[rows, cols]
    shape = int(np.shape(matrix)[0]), int(np.shape(matrix)[1])
    index = (np.asarray(one, dtype=np.int64) for one in (rows, cols))
    return (*index, np.ascontiguousarray(data, dtype=np.float64), shape)  # type: ignore[return-value]


def _as_array(matrix: Any) -> Any:
    try:
        return np.asarray(matrix)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"the matrix is no array of numbers: {error}") from error


def _entries_of_tensor(matrix: Tensor) -> tuple[Any, Any, Any]:
    _check_numbers(str(matrix.dtype).removeprefix("torch."), matrix.dim())
    sparse = matrix.detach().cpu().to_sparse_coo().coalesce()
    rows, cols = sparse.indices().numpy()
    return rows, cols, sparse.values().double().numpy()


def _check_numbers(dtype: Any, dim: int) -> None:
    kind: str
    try:
        kind = np.dtype(str(dtype)).kind
    except TypeError:
        kind = "f" if "float" in str(dtype) else "?"
    if kind == "c":
        raise InputError(
            f"the matrix holds complex numbers ({dtype}), and a solve is real: write the system as "
            "[[Re A, -Im A], [Im A, Re A]] for the real and the imaginary part of x"
        )
    if kind not in "fiub":
        raise InputError(f"the matrix must hold real numbers, not {dtype}")
    if dim != 2:
        raise InputError(f"a matrix has 2 dimensions, this one has {dim}")


def validate_pattern(
    rows: Any, cols: Any, shape: tuple[int, int], grid: Grid | None
) -> ValueError | None:
    """The error for an invalid pattern on this rank, or None."""
    if not _is_square(shape):
        return InputError(
            "the operator of a solve must be square with at least one row, shape=(n, n), not of "
            f"shape {shape!r}"
        )
    largest = np.iinfo(PETSc.IntType).max
    if max(shape[0], rows.size) > largest:
        return InputError(
            f"{shape[0]} rows and {rows.size} entries on this rank: PETSc's largest integer is "
            f"{largest}, so this needs a PETSc with 64-bit indices (--with-64-bit-indices)"
        )
    if grid is not None and grid.size != shape[0]:
        return InputError(
            f"the operator has {shape[0]} rows, but its grid has {grid.size} points: the numbers "
            "must be equal"
        )
    if rows.ndim != 1 or rows.shape != cols.shape:
        return InputError(
            f"rows and cols must be two lists of the same length, not of shapes {rows.shape} and "
            f"{cols.shape}"
        )
    if rows.size and not (
        np.issubdtype(rows.dtype, np.integer) and np.issubdtype(cols.dtype, np.integer)
    ):
        return InputError(f"rows and cols must be integers, not {rows.dtype} and {cols.dtype}")
    for name, index in (("rows", rows), ("cols", cols)):
        if index.size and (index.min() < 0 or index.max() >= shape[0]):
            return InputError(
                f"{name} must lie in 0 … {shape[0] - 1}, but has values from {index.min()} to "
                f"{index.max()}"
            )
    return None


def _is_square(shape: Any) -> bool:
    """Whether a shape is `(n, n)` with n ≥ 1."""
    if not isinstance(shape, Sequence | np.ndarray) or len(shape) != 2:
        return False
    return all(is_integer(n) and int(n) >= 1 for n in shape) and shape[0] == shape[1]


def validate_block_size(block_size: Any, n: int, n_local: int | None) -> InputError | None:
    """The error for an invalid block size on this rank, or None."""
    if not is_integer(block_size) or int(block_size) < 1:
        return InputError(f"block_size must be an integer of at least 1, not {block_size!r}")
    for rows, where in ((n, "in total"), (n_local, "on this rank")):
        if rows is not None and rows % block_size:
            return InputError(
                f"block_size={block_size} does not divide the {rows} rows {where}: the unknowns of "
                "a node must be consecutive rows of one rank"
            )
    return None


def check_ownership(n_local: Sequence[int | None], n: int) -> None:
    """Raise `InputError` unless the ranks' numbers of rows, or None on all of them, make `n`."""
    given = [rows for rows in n_local if rows is not None]
    if given and (len(given) < len(n_local) or sum(given) != n):
        raise InputError(
            f"n_local must be given on all ranks and add up to the operator's {n} rows, not "
            f"{list(n_local)}"
        )


def declare_symmetric(matrix: Any) -> None:
    """Tell PETSc that all values of a matrix are symmetric; its preconditioners differ then."""
    matrix.setOption(PETSc.Mat.Option.SYMMETRIC, True)
    matrix.setOption(PETSc.Mat.Option.SYMMETRY_ETERNAL, True)
    # Its pattern may store (i, j) without (j, i). With MAT_SYMMETRIC alone the orderings of
    # factorisations would not add what is missing, and would not end.
    matrix.setOption(PETSc.Mat.Option.STRUCTURALLY_SYMMETRIC, False)
