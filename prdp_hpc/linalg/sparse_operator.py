"""Sparse matrices with a fixed pattern and differentiable values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import ArrayLike
from torch import Tensor

from prdp_hpc.distributed.collective import call_together, raise_together
from prdp_hpc.distributed.communicators import private
from prdp_hpc.distributed.petsc_communicator import communicator_of
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg.batch_matrix import BatchMatrix
from prdp_hpc.linalg.bilinear import BilinearProducts
from prdp_hpc.linalg.nullspaces import create_nullspaces
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.pattern import entries_of, wrong_pattern
from prdp_hpc.linalg.pattern_products import PatternProducts
from prdp_hpc.linalg.petsc_matrices import (
    LocalRows,
    attached_to,
    checked_matrix,
    rows_of_csr,
    rows_of_petsc,
    wrong_petsc_matrix,
)
from prdp_hpc.linalg.pool import Lease, Pool
from prdp_hpc.linalg.preconditioner_data import (
    Fields,
    create_preconditioner_data,
    wrong_block_size,
)
from prdp_hpc.linalg.torch_petsc import Array, has_bad_numbers, in_double, is_real_tensor
from prdp_hpc.petsc import PETSc


class SparseOperator(Operator):
    """A distributed sparse matrix: a fixed COO pattern and values that come with each solve.

    Parameters
    ----------
    rows, cols : global indices of this rank's entries, shape `(nnz_local,)`; any rank may hold
        entries of any row, entries that occur twice are added.
    shape : global shape `(n, n)`.
    comm : the ranks that share the matrix; default: all.
    symmetric : promise that every set of values gives `A = Aᵀ`; the adjoint solve then costs what
        the forward solve costs, also where the transposed product is slower.
    grid : gives the division of rows among the ranks, and the hierarchy for `pc="mg"`; default:
        PETSc's even division.
    n_local : rows of this rank, where neither the grid's nor PETSc's division will do.
    constant_nullspace : promise that `A 1 = 0`, and `Aᵀ 1 = 0` unless `left_nullspace` is given, as
        for periodic and Neumann problems; the solution with mean 0 is found.
    nullspace : this rank's part `(n_local,)` of another vector z with the promise `A z = 0`, and
        `Aᵀ z = 0` unless `left_nullspace` is given; or `(k, n_local)` of several, as the 3 or 6
        motions of a rigid body.
    left_nullspace : as many vectors w with the promise `Aᵀ w = 0`, where they are other ones: a
        conservative flux matrix, whose columns sum to 0, has the constant there.

    block_size : unknowns of a node, which are neighbouring rows of one rank; for GAMG and
        "pbjacobi". Default 1.
    near_nullspace : this rank's part `(k, n_local)` of vectors that A maps nearly to 0 and that
        GAMG is to interpolate exactly, as the motions of a rigid body in elasticity; default: one
        constant for each unknown of a node.
    coordinates : of this rank's nodes, `(n_local / block_size, dim)`, from which GAMG makes the
        motions of a rigid body itself; `dim` is the block size.
    fields : for `pc="fieldsplit"`, the global numbers of this rank's rows in each field, as
        `{"velocity": rows, "pressure": rows}`; options of a field's solver begin with its name:
        `petsc_options={"fieldsplit_velocity_pc_type": "gamg"}`.
    preconditioner : a pair `(operator, values)`: another matrix that preconditioners are made from,
        as an assembled approximation; see `Operator.preconditioner`. Default: the matrix itself.

    With nullspaces a solve gives `x = A⁺ b`, the pseudo-inverse: the part of b along the left
    nullspace is removed, and so is that of x along the right one. Gradients are those of `A⁺ b`,
    for values among which the nullspaces stay as they are. Every set of values is checked against
    the promises.

    Raises
    ------
    ValueError
        For a pattern that does not fit the shape, a matrix that is not square, nullspaces of a
        wrong length, linearly dependent or given in both ways, or ranks that disagree; at a solve,
        for values that break a promise.

    Notes
    -----
    PETSc manual pages: MatSetPreallocationCOO, MatSetValuesCOO, MatSetNullSpace.
    """

    takes_batches = True

    def __init__(
        self,
        rows: ArrayLike,
        cols: ArrayLike,
        shape: tuple[int, int],
        comm: MPI.Comm | None = None,
        *,
        symmetric: bool = False,
        grid: Grid | None = None,
        n_local: int | None = None,
        constant_nullspace: bool = False,
        nullspace: ArrayLike | None = None,
        left_nullspace: ArrayLike | None = None,
        block_size: int = 1,
        near_nullspace: ArrayLike | None = None,
        coordinates: ArrayLike | None = None,
        fields: Fields | None = None,
        preconditioner: tuple[Operator, Tensor | None] | None = None,
    ) -> None:
        super().__init__(MPI.COMM_WORLD if comm is None else comm, symmetric, grid)
        rows, cols = np.asarray(rows), np.asarray(cols)
        raise_together(
            self.comm,
            wrong_pattern(rows, cols, shape, grid)
            or wrong_block_size(
                block_size, int(shape[0]), n_local if grid is None else grid.n_local
            ),
        )
        self._rows, self._cols = (index.astype(PETSc.IntType) for index in (rows, cols))
        given = nullspace is None, left_nullspace is None
        properties = (tuple(shape), symmetric, constant_nullspace, int(block_size), *given)
        if len(set(private(self.comm).agreement.allgather(properties))) > 1:
            raise InputError("the ranks gave one operator different shapes or properties")
        self.shape = (int(shape[0]), int(shape[1]))
        if n_local is None:
            n_local = PETSc.DECIDE if grid is None else grid.n_local
        self._n_local, self._block_size = self._owned(n_local, block_size), int(block_size)
        self.nullspaces = create_nullspaces(
            self.comm, self._n_local, constant_nullspace, nullspace, left_nullspace
        )
        self.matrix = self._create_matrix()
        self.preconditioner_data = create_preconditioner_data(
            self.comm, self.matrix, near_nullspace, coordinates, fields
        )
        self.preconditioner = preconditioner
        self.matrices: Pool[BatchMatrix] = Pool()
        self._products: BilinearProducts = PatternProducts(
            self._rows, self._cols, self.matrix.createVecLeft()
        )

    def _owned(self, n_local: int, block_size: int) -> int:
        """Rows of this rank, also where PETSc divides them."""
        sizes = (n_local, self.shape[0])
        return int(PETSc.Sys.splitOwnership(sizes, bsize=int(block_size), comm=self.comm)[0])

    def _create_matrix(self) -> Any:
        n = self.shape[0]
        matrix = PETSc.Mat().create(comm=self.comm)
        matrix.setSizes(((self._n_local, n), (self._n_local, n)))
        matrix.setType("aij")
        matrix.setBlockSize(self._block_size)
        # PETSc may reorder what it is given.
        matrix.setPreallocationCOO(self._rows.copy(), self._cols.copy())
        if self.symmetric:
            matrix.setOption(PETSc.Mat.Option.SYMMETRIC, True)
            matrix.setOption(PETSc.Mat.Option.SYMMETRY_ETERNAL, True)
        if self.nullspaces is not None:
            self.nullspaces.attach(matrix)
        return matrix

    @property
    def matrix_sets(self) -> int:
        """How many batches of matrices `(M, nnz_local)` keep theirs for their derivatives; default
        8, equal on all ranks.

        Each set takes the memory of M matrices and their preconditioners. A graph with more batches
        than sets (a chain of many steps) loads the matrices of the others once more in its backward
        pass, at the price of one set-up each.
        """
        return self.matrices.most

    @matrix_sets.setter
    def matrix_sets(self, count: int) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"matrix_sets must be an integer of at least 1, not {count!r}")
        self.matrices.most = count

    def acquire_matrices(self, count: int) -> Lease[BatchMatrix]:
        """At least `count` matrices with this pattern, for values `(count, nnz_local)`; collective.

        The caller's until it gives the list to `release_matrices`, or drops it on all ranks; they
        are made once and used again.
        """
        return self.matrices.acquire(count, self._new_matrix)

    def _new_matrix(self) -> BatchMatrix:
        return BatchMatrix(self)

    def touch_matrices(self, lease: Lease[BatchMatrix]) -> None:
        """The matrices are used once more; their values may have changed since."""
        self.matrices.touch(lease)

    def release_matrices(self, lease: Lease[BatchMatrix]) -> None:
        """The matrices are needed no more, on any rank."""
        self.matrices.release(lease)

    @classmethod
    def from_scipy(
        cls, matrix: Any, comm: MPI.Comm | None = None, **options: Any
    ) -> tuple[SparseOperator, Tensor]:
        """The operator of a matrix that every rank holds, and this rank's values.

        `matrix` is a SciPy sparse matrix or array, a sparse or dense torch tensor, or a NumPy array
        (of the last two the numbers that are not 0 make the pattern). Each rank takes the entries
        of its own rows: `values` has shape `(nnz_local,)`, float64, without a gradient. `options`
        are those of `SparseOperator`.

        Raises
        ------
        ValueError
            For complex numbers, or what is not a matrix of numbers.
        """
        world = MPI.COMM_WORLD if comm is None else comm
        rows, cols, data, shape = call_together(world, lambda: entries_of(matrix))
        n, rank, size = shape[0], world.rank, world.size
        start = rank * (n // size) + min(rank, n % size)
        end = start + n // size + (1 if rank < n % size else 0)
        own = (rows >= start) & (rows < end)
        return cls(rows[own], cols[own], shape, world, **options), torch.from_numpy(data[own])

    @classmethod
    def from_petsc(cls, matrix: Any, **options: Any) -> tuple[SparseOperator, Tensor]:
        """The operator of an assembled petsc4py `Mat`, with the same rows on the same ranks, and
        this rank's values.

        `matrix` is of type aij, baij, sbaij, dense or nest, on any number of ranks. Its block size,
        nullspace, transpose nullspace and near-nullspace are kept; `options` are those of
        `SparseOperator`, and replace them. The numbers are copied: `values`, shape `(nnz_local,)`,
        float64, without a gradient, are those of the matrix's rows in the order of PETSc's
        `Mat.getValuesCSR()`, so that after another assembly `mat.getValuesCSR()[2]` of an aij
        matrix are the new values. Collective.

        Raises
        ------
        ValueError
            For a matrix that is not assembled, not square, or without stored entries.

        Notes
        -----
        PETSc manual pages: MatConvert, MatGetRow.

        Example
        -------
        ::

            operator, values = SparseOperator.from_petsc(mat)
            x = solve(operator, values.requires_grad_(), b, Solver("cg", "gamg"))
        """
        comm = communicator_of(checked_matrix(matrix))
        raise_together(comm, wrong_petsc_matrix(matrix))
        own = rows_of_petsc(matrix)
        return cls._of_rows(own, matrix.getSize()[0], comm, {**attached_to(matrix), **options})

    @classmethod
    def from_csr(
        cls,
        indptr: ArrayLike,
        indices: ArrayLike,
        data: ArrayLike | Tensor,
        comm: MPI.Comm | None = None,
        **options: Any,
    ) -> tuple[SparseOperator, Tensor]:
        """The operator of which each rank gives its own rows, and this rank's values.

        Parameters
        ----------
        indptr : where each of this rank's rows starts in `indices` and `data`, and their end:
            shape `(n_local + 1,)`. The rows of a rank follow those of the rank before.
        indices : global column numbers, `(nnz_local,)`.
        data : the entries, `(nnz_local,)`, real.
        comm : the ranks that share the matrix; default: all.
        options : those of `SparseOperator`.

        Returns
        -------
        The operator, and `values` as a copy of `data`: float64, in the same order, without a
        gradient. Collective.

        Raises
        ------
        ValueError
            On all ranks, for arrays that are no CSR matrix of real numbers, or not square.

        Example
        -------
        ::

            # Two rows on each rank: 2 on the diagonal.
            first = 2 * MPI.COMM_WORLD.rank
            operator, values = SparseOperator.from_csr([0, 1, 2], [first, first + 1], [2.0, 2.0])
        """
        world = MPI.COMM_WORLD if comm is None else comm
        own = call_together(world, lambda: rows_of_csr(world, indptr, indices, data))
        return cls._of_rows(own, private(world).agreement.allreduce(own.n_local), world, options)

    @classmethod
    def _of_rows(
        cls, own: LocalRows, n: int, comm: MPI.Comm, options: dict[str, Any]
    ) -> tuple[SparseOperator, Tensor]:
        operator = cls(own.rows, own.cols, (n, n), comm, n_local=own.n_local, **options)
        return operator, torch.from_numpy(own.data)

    @property
    def nnz_local(self) -> int:
        """Entries that this rank gives."""
        return int(self._rows.size)

    def check_form(self, values: Any) -> Exception | None:
        """A ValueError for values of a wrong kind or shape."""
        if not is_real_tensor(values):
            return InputError(
                f"values must be a tensor of real floating-point numbers, not {_kind(values)}"
            )
        if (
            values.dim() not in (1, 2)
            or values.shape[-1] != self.nnz_local
            or values.shape[0] == 0 < self.nnz_local
        ):
            wanted = f"({self.nnz_local},) or, for M matrices, (M, {self.nnz_local})"
            return InputError(
                f"values must have one number per entry of the pattern, shape {wanted}, not "
                f"{tuple(values.shape)}"
            )
        return None

    def check_numbers(self, host: Array | None) -> Exception | None:
        """A ValueError that names the first entry that is not finite."""
        if host is not None and has_bad_numbers(host):
            bad = int(np.argwhere(~np.isfinite(host))[0, -1])
            return InputError(
                f"the matrix values hold NaN or infinity, first in entry {bad} "
                f"(row {self._rows[bad]}, column {self._cols[bad]}): look at what produced them"
            )
        return None

    @property
    def stencil_grid(self) -> Grid | None:
        """The grid whose points the unknowns of a rank are, one field after the other, if there is
        one: products may then be those of a stencil.
        """
        return self.grid

    def coo_pattern(self) -> tuple[Any, Any, Any, int]:
        """Global rows and columns of this rank's entries, which of the values they are (a mask;
        None: all), and how many of the last ones are 1 for all values.
        """
        return self._rows, self._cols, None, 0

    def coo_values(self, host: Array | None) -> Array | None:
        """The numbers of the pattern's entries, in its order, of values on the host."""
        return host

    def _put(self, host: Array | None) -> None:
        self.matrix.setValuesCOO(self.coo_values(host))

    def has_single_values(self) -> bool:
        """See `Operator`."""
        return self.loaded.are_single()

    def diagonal_of(self, values: Tensor) -> Tensor:
        """The sum of the entries on each row's diagonal, whichever rank gave them."""
        return self._products.diagonal(values)

    def values_gradient(self, values: Tensor, adjoint: Tensor, solution: Tensor) -> Tensor:
        """`∂L/∂value_k = −λ[row_k] · x[col_k]`, summed over the batch.

        For values `(M, nnz_local)`, λ and x are `(M, R, n_local)` and the sum runs over R.
        """
        return self._products.pairing(adjoint, solution, -1.0)

    def tangent_product(
        self, values: Tensor, tangent: Tensor, x: Tensor, transposed: bool = False
    ) -> Tensor:
        """The product with the pattern that has the tangent for values; for `(M, nnz_local)` x is
        `(M, R, n_local)`.
        """
        return self._products.product(in_double(tangent), x, transposed)


def _kind(value: Any) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
