"""Sparse matrices with a fixed pattern and differentiable values."""

from __future__ import annotations

import weakref
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
from prdp_hpc.linalg.arrays import Numbers, has_bad_numbers, on_host
from prdp_hpc.linalg.batch_matrix import BatchMatrix
from prdp_hpc.linalg.bilinear import BilinearProducts
from prdp_hpc.linalg.memory import Memory, memory_of
from prdp_hpc.linalg.nullspaces import create_nullspaces
from prdp_hpc.linalg.operator import Operator, no_own_preconditioner
from prdp_hpc.linalg.pattern import entries_of, validate_pattern
from prdp_hpc.linalg.pattern_products import PatternProducts
from prdp_hpc.linalg.petsc_matrices import (
    LocalRows,
    attached_to,
    checked_matrix,
    rows_of_csr,
    rows_of_petsc,
    validate_petsc_matrix,
)
from prdp_hpc.linalg.pool import Lease, Pool
from prdp_hpc.linalg.preconditioner_data import (
    Fields,
    create_preconditioner_data,
    validate_block_size,
)
from prdp_hpc.linalg.preconditioning_matrix import (
    PreconditioningMatrix,
    create_preconditioning_matrix,
)
from prdp_hpc.linalg.torch_petsc import in_double, is_real_tensor, put_values
from prdp_hpc.petsc import PETSc


class SparseOperator(Operator):
    """A distributed sparse matrix: a fixed pattern, and values that are passed to each solve.

    The pattern is in COO form: entry k has the value `values[k]` at `(rows[k], cols[k])`, and
    entries that occur twice are added. The gradient of the values is `∂L/∂value_k = −λ[row_k]
    x[col_k]` with the adjoint solution λ.

    With nullspaces a solve returns `x = A⁺ b`, the pseudo-inverse: the part of b along the left
    nullspace is removed, and so is the part of x along the right one. Gradients are those of `A⁺
    b`, for values whose nullspaces stay the same. Every set of values is checked against the
    promises.

    Parameters
    ----------
    rows, cols : array_like of int, shape (nnz_local,)
        Global indices of this rank's entries. Any rank may hold entries of any row.
    shape : tuple of int
        Global shape `(n, n)`.
    comm : mpi4py.MPI.Comm, optional
        The ranks that share the matrix. Default: all ranks.
    symmetric : bool, default False
        Promise that every set of values gives `A = Aᵀ`. The adjoint solve then uses A, also where
        the transposed product is slower.
    grid : Grid, optional
        Determines the rows of each rank, and the hierarchy of `pc="mg"`. Default: PETSc's even
        division.
    n_local : int, optional
        Number of rows of this rank, for divisions other than the grid's and PETSc's.
    constant_nullspace : bool, default False
        Promise that `A 1 = 0`, and `Aᵀ 1 = 0` unless `left_nullspace` is given, e.g. for periodic
        and Neumann problems. The solution with mean 0 is returned.
    nullspace : array_like, optional
        This rank's part of another vector z with the promise `A z = 0`, and `Aᵀ z = 0` unless
        `left_nullspace` is given; shape `(n_local,)`, or `(k, n_local)` for k vectors, e.g. the 3
        or 6 rigid-body modes.
    left_nullspace : array_like, optional
        As many vectors w with the promise `Aᵀ w = 0`, of the same shape, where they differ: e.g. a
        conservative flux matrix, whose columns sum to 0, has the constant here.
    block_size : int, default 1
        Unknowns per node, which are consecutive rows of one rank; for GAMG and "pbjacobi".
    near_nullspace : array_like, optional
        This rank's part of k vectors that A maps nearly to 0 and that GAMG interpolates exactly,
        shape `(k, n_local)`, e.g. the rigid-body modes in elasticity. Default: one constant per
        unknown of a node.
    coordinates : array_like, optional
        Coordinates of this rank's nodes, shape `(n_local / block_size, dim)` with `dim =
        block_size`, from which GAMG computes the rigid-body modes.
    fields : dict, optional
        For `pc="fieldsplit"`: the global numbers of this rank's rows of each field, e.g.
        `{"velocity": rows, "pressure": rows}`. Options of a field's solver begin with its name:
        `petsc_options={"fieldsplit_velocity_pc_type": "gamg"}`.
    preconditioner : tuple, optional
        A pair `(operator, values)`: another matrix that preconditioners are made from, e.g. an
        assembled approximation. Default: the matrix itself.

    Raises
    ------
    InputError
        For a pattern that does not fit the shape, a matrix that is not square, nullspaces of a
        wrong length, that are linearly dependent or given twice, or ranks that disagree; in a
        solve, for values that break a promise.

    Notes
    -----
    PETSc manual pages: MatSetPreallocationCOO, MatSetValuesCOO, MatSetNullSpace.

    Examples
    --------
    The matrix `[[2, 1], [0, 4]]`:

    >>> import torch
    >>> from prdp_hpc import Solver, SparseOperator, solve
    >>> operator = SparseOperator(rows=[0, 0, 1], cols=[0, 1, 1], shape=(2, 2))
    >>> values = torch.tensor([2.0, 1.0, 4.0], dtype=torch.float64)
    >>> solve(operator, values, torch.tensor([4.0, 8.0]).double(), Solver("gmres", "jacobi", 1e-12))
    tensor([1.0000, 2.0000], dtype=torch.float64)
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
            validate_pattern(rows, cols, shape, grid)
            or validate_block_size(
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
        self._place()
        self._twins: dict[torch.device, SparseOperator] = {}
        self._origin: weakref.ref[SparseOperator] | None = None
        self._moved: tuple[PreconditioningMatrix, PreconditioningMatrix] | None = None

    def _owned(self, n_local: int, block_size: int) -> int:
        """Number of rows of this rank, also if PETSc divides them."""
        sizes = (n_local, self.shape[0])
        return int(PETSc.Sys.splitOwnership(sizes, bsize=int(block_size), comm=self.comm)[0])

    def _create_matrix(self) -> Any:
        n = self.shape[0]
        matrix = PETSc.Mat().create(comm=self.comm)
        matrix.setSizes(((self._n_local, n), (self._n_local, n)))
        matrix.setType(self.memory.matrix_type)
        matrix.setBlockSize(self._block_size)
        # Copies, because PETSc may reorder the arrays.
        matrix.setPreallocationCOO(self._rows.copy(), self._cols.copy())
        if self.symmetric:
            matrix.setOption(PETSc.Mat.Option.SYMMETRIC, True)
            matrix.setOption(PETSc.Mat.Option.SYMMETRY_ETERNAL, True)
        if self.nullspaces is not None:
            self.nullspaces.attach(matrix)
        return matrix

    def on(self, device: torch.device) -> SparseOperator:
        """Return the operator for tensors on a device: itself, or one of the same pattern.

        It is made on first use, which is collective.
        """
        memory = memory_of(device)
        if memory is self.memory or memory == self.memory:
            return self
        if device not in self._twins:
            self._twins[device] = self._twin(memory)
        return self._twins[device]

    def _twin(self, memory: Memory) -> SparseOperator:
        twin = object.__new__(type(self))
        twin.__dict__ = dict(self.__dict__)
        Operator.__init__(twin, self.comm, self.symmetric, self.grid)
        twin.memory, twin.promises_hold = memory, self.promises_hold
        if self.nullspaces is not None:
            twin.nullspaces = self.nullspaces.in_memory(memory)
        twin.matrix = twin._create_matrix()
        twin.preconditioner_data = self.preconditioner_data.in_memory(memory)
        twin.preconditioner_data.attach_to_matrix(twin.matrix)
        twin._origin = weakref.ref(self)
        twin.matrices, twin._twins = Pool(self.matrices.most), {}
        twin._place()
        return twin

    @property
    def preconditioner(self) -> PreconditioningMatrix | None:
        """See `Operator`; that of an operator in another memory is made from the original's."""
        origin = None if self._origin is None else self._origin()
        given = None if origin is None else origin.preconditioner
        if given is None:
            return self._preconditioning if origin is None else None
        if self._moved is None or self._moved[0] is not given:
            self._moved = given, given.on(self.memory.device)
        return self._moved[1]

    @preconditioner.setter
    def preconditioner(self, pair: Any) -> None:
        self._preconditioning = create_preconditioning_matrix(self, pair)

    def _place(self) -> None:
        """Make what computes with values and vectors in the operator's memory; collective."""
        template = self.matrix.createVecLeft()
        self._products: BilinearProducts = PatternProducts(
            self._rows, self._cols, template, self.memory
        )

    @property
    def matrix_sets(self) -> int:
        """Number of batches of matrices that keep their PETSc matrices for their derivatives.

        Default 8, equal on all ranks. Each set takes the memory of M matrices and their
        preconditioners. A graph with more batches than sets (a chain of many steps) loads the
        matrices of the other batches again in its backward pass, which costs one set-up each.
        """
        return self.matrices.most

    @matrix_sets.setter
    def matrix_sets(self, count: int) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"matrix_sets must be an integer of at least 1, not {count!r}")
        self.matrices.most = count

    def acquire_matrices(self, count: int) -> Lease[BatchMatrix]:
        """Return at least `count` matrices with this pattern, from the pool; collective.

        They are for values `(count, nnz_local)`, and reserved for the caller until it calls
        `release_matrices` or drops the list on all ranks. They are made once and used again.
        """
        return self.matrices.acquire(count, self._new_matrix)

    def _new_matrix(self) -> BatchMatrix:
        return BatchMatrix(self)

    def touch_matrices(self, lease: Lease[BatchMatrix]) -> None:
        """Note that the matrices are used again; their values may have changed in the meantime."""
        self.matrices.touch(lease)

    def release_matrices(self, lease: Lease[BatchMatrix]) -> None:
        """Return the matrices to the pool, because no rank needs them any more."""
        self.matrices.release(lease)

    @classmethod
    def from_scipy(
        cls, matrix: Any, comm: MPI.Comm | None = None, **options: Any
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
        return cls(rows[own], cols[own], shape, world, **options), torch.from_numpy(data[own])

    @classmethod
    def from_petsc(cls, matrix: Any, **options: Any) -> tuple[SparseOperator, Tensor]:
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
        return cls._of_rows(own, private(world).agreement.allreduce(own.n_local), world, options)

    @classmethod
    def _of_rows(
        cls, own: LocalRows, n: int, comm: MPI.Comm, options: dict[str, Any]
    ) -> tuple[SparseOperator, Tensor]:
        operator = cls(own.rows, own.cols, (n, n), comm, n_local=own.n_local, **options)
        return operator, torch.from_numpy(own.data)

    @property
    def nnz_local(self) -> int:
        """Number of entries that this rank gives."""
        return int(self._rows.size)

    def check_form(self, values: Any) -> Exception | None:
        """Return an InputError for values of a wrong kind or shape, else None."""
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

    def check_numbers(self, numbers: Numbers | None) -> Exception | None:
        """Return an InputError that names the first entry that is not finite, else None."""
        if numbers is not None and has_bad_numbers(numbers):
            bad = int(np.argwhere(~np.isfinite(on_host(numbers)))[0, -1])
            return InputError(
                f"the matrix values hold NaN or infinity, first in entry {bad} "
                f"(row {self._rows[bad]}, column {self._cols[bad]}): look at what produced them"
            )
        return None

    @property
    def stencil_grid(self) -> Grid | None:
        """The grid whose points are this rank's unknowns, field by field, or None.

        With a grid, products may be computed as those of a stencil.
        """
        return self.grid

    def batched_preconditioner(self, name: str, matrix: Any) -> Any:
        """One of our own for batched methods, for M matrices of this pattern; collective."""
        raise no_own_preconditioner(name)

    def coo_pattern(self) -> tuple[Any, Any, Any, int]:
        """Return the pattern of this rank's entries, for batched methods.

        It consists of the global rows and columns, the positions of their values (None: all
        values), and the number of last entries that are 1 for all values.
        """
        return self._rows, self._cols, None, 0

    def coo_values(self, numbers: Numbers | None) -> Numbers | None:
        """Return the numbers of the pattern's entries, in its order, in the matrix's memory."""
        return numbers

    def _put(self, numbers: Numbers | None) -> None:
        put_values(self.matrix, self.coo_values(numbers))

    def has_single_values(self) -> bool:
        """See `Operator`."""
        return self.loaded.are_single()

    def diagonal_of(self, values: Tensor) -> Tensor:
        """Return the sum of the entries on each row's diagonal, of all ranks."""
        return self._products.diagonal(values)

    def values_gradient(self, values: Tensor, adjoint: Tensor, solution: Tensor) -> Tensor:
        """Return `∂L/∂value_k = −λ[row_k] · x[col_k]`, summed over the batch.

        For values `(M, nnz_local)`, λ and x have the shape `(M, R, n_local)` and the sum runs over
        R.
        """
        return self._products.pairing(adjoint, solution, -1.0)

    def tangent_product(
        self, values: Tensor, tangent: Tensor, x: Tensor, transposed: bool = False
    ) -> Tensor:
        """Return the product with the matrix whose values are the tangent.

        For a tangent `(M, nnz_local)`, x has the shape `(M, R, n_local)`.
        """
        return self._products.product(in_double(tangent, self.memory.device), x, transposed)


def _kind(value: Any) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
