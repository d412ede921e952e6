"""Operators of existing matrices: of SciPy, torch, NumPy or PETSc, and local rows in CSR form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack, cast

import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.distributed.collective import call_together, raise_together
from prdp_hpc.distributed.communicators import private
from prdp_hpc.distributed.petsc_communicator import communicator_of
from prdp_hpc.linalg.array_types import IntegerArray, RealArray, WholeMatrix
from prdp_hpc.linalg.pattern import entries_of
from prdp_hpc.linalg.petsc_matrices import (
    LocalRows,
    attached_to,
    checked_matrix,
    rows_of_csr,
    rows_of_petsc,
    validate_petsc_matrix,
)
from prdp_hpc.petsc import PETSc

if TYPE_CHECKING:
    from prdp_hpc.linalg.operator_options import OperatorOptions
    from prdp_hpc.linalg.sparse_operator import SparseOperator


class FromMatrices:
    """The constructors of `SparseOperator` that take a whole matrix or the rows of each rank."""

    @classmethod
    def from_scipy(
        cls, matrix: WholeMatrix, comm: MPI.Comm | None = None, **options: Unpack[OperatorOptions]
    ) -> tuple[SparseOperator, Tensor]:
        """Make the operator of a matrix that is replicated on all ranks, and this rank's values.

        Each rank selects the entries of its own rows. Collective.

        Parameters
        ----------
        matrix : scipy sparse matrix, Tensor or ndarray
            The whole matrix, of shape `(n, n)`: a SciPy sparse matrix or array, a sparse or dense
            torch tensor, or a NumPy array. Of dense ones the non-zero numbers make the pattern.
        comm : mpi4py.MPI.Comm, optional
            The ranks that share the matrix. Default: all ranks.
        **options : Any
            Keyword arguments of `SparseOperator`, e.g. `symmetric`.

        Returns
        -------
        operator : SparseOperator
            The operator.
        values : Tensor
            Its values, float64, shape `(nnz_local,)`, without a gradient.

        Raises
        ------
        InputError
            For complex numbers, or for an object that is not a matrix of numbers.

        Examples
        --------
        >>> import numpy as np
        >>> from prdp_hpc import SparseOperator
        >>> operator, values = SparseOperator.from_scipy(np.array([[2.0, 1.0], [0.0, 4.0]]))
        >>> values
        tensor([2., 1., 4.], dtype=torch.float64)
        """
        world = MPI.COMM_WORLD if comm is None else comm
        rows, cols, data, shape = call_together(world, lambda: entries_of(matrix))
        n, rank, size = shape[0], world.rank, world.size
        start = rank * (n // size) + min(rank, n % size)
        end = start + n // size + (1 if rank < n % size else 0)
        own = (rows >= start) & (rows < end)
        make = cast("type[SparseOperator]", cls)
        operator = make(rows[own], cols[own], shape, world, **options)
        return operator, torch.from_numpy(data[own])

    @classmethod
    def from_petsc(
        cls, matrix: PETSc.Mat, **options: Unpack[OperatorOptions]
    ) -> tuple[SparseOperator, Tensor]:
        """Make the operator of an assembled petsc4py `Mat`, and this rank's values.

        The rows stay on their ranks. Block size, nullspace, transpose nullspace and near-nullspace
        of the matrix are kept unless `options` replaces them. The numbers are copied, in the order
        of PETSc's `Mat.getValuesCSR()`, so after another assembly `mat.getValuesCSR()[2]` of an aij
        matrix is the new set of values. Collective.

        Parameters
        ----------
        matrix : petsc4py.PETSc.Mat
            An assembled matrix of type aij, baij, sbaij, dense or nest, on any number of ranks.
        **options : Any
            Keyword arguments of `SparseOperator`, e.g. `symmetric`.

        Returns
        -------
        operator : SparseOperator
            The operator, with the same rows on the same ranks.
        values : Tensor
            Its values, float64, shape `(nnz_local,)`, without a gradient.

        Raises
        ------
        InputError
            For a matrix that is not assembled, not square, or does not store its entries.

        Notes
        -----
        PETSc manual pages: MatConvert, MatGetRow.

        Examples
        --------
        >>> import torch
        >>> from prdp_hpc import Solver, SparseOperator, solve
        >>> from prdp_hpc.petsc import PETSc
        >>> mat = PETSc.Mat().createAIJ(2, csr=([0, 1, 2], [0, 1], [2.0, 4.0]))
        >>> operator, values = SparseOperator.from_petsc(mat, symmetric=True)
        >>> solve(operator, values, torch.ones(2).double(), Solver("cg", "gamg"))
        tensor([0.5000, 0.2500], dtype=torch.float64)
        """
        comm = communicator_of(checked_matrix(matrix))
        raise_together(comm, validate_petsc_matrix(matrix))
        own = rows_of_petsc(matrix)
        return _of_rows(cls, own, matrix.getSize()[0], comm, {**attached_to(matrix), **options})

    @classmethod
    def from_csr(
        cls,
        indptr: IntegerArray,
        indices: IntegerArray,
        data: RealArray,
        comm: MPI.Comm | None = None,
        **options: Unpack[OperatorOptions],
    ) -> tuple[SparseOperator, Tensor]:
        """Make the operator of which each rank gives its own rows, and this rank's values.

        Collective.

        Parameters
        ----------
        indptr : array_like of int, shape (n_local + 1,)
            Where each of this rank's rows starts in `indices` and `data`, and the end of the last
            row. The rows of a rank follow those of the rank before.
        indices : array_like of int, shape (nnz_local,)
            Global column numbers.
        data : array_like or Tensor, shape (nnz_local,)
            The entries, real numbers.
        comm : mpi4py.MPI.Comm, optional
            The ranks that share the matrix. Default: all ranks.
        **options : Any
            Keyword arguments of `SparseOperator`, e.g. `symmetric`.

        Returns
        -------
        operator : SparseOperator
            The operator.
        values : Tensor
            A copy of `data`, float64, in the same order, shape `(nnz_local,)`, without a gradient.

        Raises
        ------
        InputError
            On all ranks, for arrays that are not a CSR matrix of real numbers, or a matrix that is
            not square.

        Examples
        --------
        Two rows per rank, with 2 on the diagonal:

        >>> from mpi4py import MPI
        >>> from prdp_hpc import SparseOperator
        >>> first = 2 * MPI.COMM_WORLD.rank
        >>> operator, values = SparseOperator.from_csr([0, 1, 2], [first, first + 1], [2.0, 2.0])
        >>> operator.row_range
        (0, 2)
        """
        world = MPI.COMM_WORLD if comm is None else comm
        own = call_together(world, lambda: rows_of_csr(world, indptr, indices, data))
        n = private(world).agreement.allreduce(own.n_local)
        return _of_rows(cls, own, n, world, options)


def _of_rows(
    cls: type[FromMatrices], own: LocalRows, n: int, comm: MPI.Comm, options: Mapping[str, Any]
) -> tuple[SparseOperator, Tensor]:
    make = cast("type[SparseOperator]", cls)
    operator = make(own.rows, own.cols, (n, n), comm, n_local=own.n_local, **options)
    return operator, torch.from_numpy(own.data)
