"""Sparse matrices with a fixed pattern and differentiable values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.distributed.collective import raise_together
from prdp_hpc.distributed.communicators import private
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg.array_types import IntegerArray, RealArray
from prdp_hpc.linalg.arrays import Numbers, array_of, has_bad_numbers, on_host
from prdp_hpc.linalg.batch_matrix import BatchMatrix
from prdp_hpc.linalg.bilinear import BilinearProducts, PatternProducts
from prdp_hpc.linalg.from_matrices import FromMatrices
from prdp_hpc.linalg.held_matrices import Lease, Pool
from prdp_hpc.linalg.nullspaces import Nullspaces, create_nullspaces
from prdp_hpc.linalg.operator import Operator, no_own_preconditioner
from prdp_hpc.linalg.pattern import (
    Pattern,
    check_ownership,
    declare_symmetric,
    validate_block_size,
    validate_pattern,
)
from prdp_hpc.linalg.preconditioner_data import (
    Fields,
    create_preconditioner_data,
)
from prdp_hpc.linalg.preconditioning_matrix import PreconditioningMatrix
from prdp_hpc.linalg.torch_petsc import (
    HOST,
    Memory,
    in_double,
    is_real_tensor,
    kind_of_argument,
    memory_of,
    put_values,
)
from prdp_hpc.number_checks import count_error
from prdp_hpc.petsc import PETSc


class SparseOperator(FromMatrices, Operator):
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
    takes_entries = True
    """Whether `solve` is given one value per entry of the pattern."""

    def __init__(
        self,
        rows: IntegerArray,
        cols: IntegerArray,
        shape: tuple[int, int],
        comm: MPI.Comm | None = None,
        *,
        symmetric: bool = False,
        grid: Grid | None = None,
        n_local: int | None = None,
        constant_nullspace: bool = False,
        nullspace: RealArray | None = None,
        left_nullspace: RealArray | None = None,
        block_size: int = 1,
        near_nullspace: RealArray | None = None,
        coordinates: RealArray | None = None,
        fields: Fields | None = None,
        preconditioner: tuple[Operator, Tensor | None] | None = None,
    ) -> None:
        super().__init__(MPI.COMM_WORLD if comm is None else comm, symmetric, grid)
        rows, cols = array_of(rows), array_of(cols)
        raise_together(
            self.comm,
            validate_pattern(rows, cols, shape, grid)
            or (None if n_local is None else count_error("n_local", n_local, least=0))
            or validate_block_size(
                block_size, int(shape[0]), n_local if grid is None else grid.n_local
            ),
        )
        given = nullspace is None, left_nullspace is None
        properties = (tuple(shape), symmetric, constant_nullspace, int(block_size), *given)
        data = near_nullspace, coordinates, fields
        has_data, has_pair = any(one is not None for one in data), preconditioner is not None
        if n_local is None and grid is not None:
            n_local = grid.n_local
        agreed = [(properties, has_data, has_pair, n_local)]
        if self.comm.size > 1:
            agreed = private(self.comm).agreement.allgather(agreed[0])
        if len({own for own, *_ in agreed}) > 1:
            raise InputError("the ranks gave one operator different shapes or properties")
        check_ownership([given for *_, given in agreed], int(shape[0]))
        n_local = PETSc.DECIDE if n_local is None else n_local
        sizes, size = (n_local, int(shape[0])), int(block_size)
        owned = PETSc.Sys.splitOwnership(sizes, bsize=size, comm=self.comm)[0]
        rows, cols = (index.astype(PETSc.IntType) for index in (rows, cols))
        self._pattern = Pattern(rows, cols, (int(shape[0]), int(shape[1])), int(owned), size)
        nullspaces = None
        if constant_nullspace or not all(given):
            nullspaces = create_nullspaces(
                self.comm, int(owned), constant_nullspace, nullspace, left_nullspace
            )
        has_data, has_pair = (any(flags) for flags in list(zip(*agreed, strict=True))[1:3])
        self._create(HOST, nullspaces)
        if has_data:
            self.preconditioner_data = create_preconditioner_data(self.comm, self.matrix, *data)
        if has_pair:
            self.preconditioner = preconditioner

    def _create(self, memory: Memory, nullspaces: Nullspaces | None) -> None:
        """Make the matrix, and what computes with its values, in a memory; collective."""
        self.memory, self.nullspaces = memory, nullspaces
        self.matrix = self._pattern.create_matrix(self.comm, memory.matrix_type)
        if self.symmetric:
            declare_symmetric(self.matrix)
        if nullspaces is not None:
            nullspaces.attach(self.matrix)
        if self.takes_entries and memory is HOST:
            self.usual_shapes = (self.nnz_local,), (self._pattern.n_local,)
        self.matrices: Pool[BatchMatrix] = Pool()
        self._in_memories: dict[torch.device, SparseOperator] = {}
        self._moved: PreconditioningMatrix | None = None
        self._place()

    def on(self, device: torch.device) -> SparseOperator:
        """Return the operator for tensors on a device: itself, or one of the same pattern.

        It is made on first use, which is collective.
        """
        memory = memory_of(device)
        if memory is self.memory or memory == self.memory:
            return self
        found = self._in_memories.get(device)
        if found is None:
            found = self._in_memories[device] = self._in_memory(memory)
        given = self.preconditioner
        if found._moved is not given:
            found._moved = given
            found._preconditioning = None if given is None else given.on(device)
        return found

    def _in_memory(self, memory: Memory) -> SparseOperator:
        """An operator in another memory that shares this one's pattern; collective."""
        found = object.__new__(type(self))
        Operator.__init__(found, self.comm, self.symmetric, self.grid)
        found._share(self)
        spaces = self.nullspaces
        found._create(memory, None if spaces is None else spaces.in_memory(memory))
        found.matrix_sets = self.matrix_sets
        found.preconditioner_data = self.preconditioner_data.in_memory(memory)
        found.preconditioner_data.attach_to_matrix(found.matrix)
        return found

    def _share(self, other: Any) -> None:
        """Take from an operator of the same class what does not depend on its memory."""
        self._pattern, self.promises_hold = other._pattern, other.promises_hold

    def _place(self) -> None:
        """Make what computes with values and vectors in the operator's memory; collective."""
        rows, cols, template = self._pattern.rows, self._pattern.cols, self.matrix.createVecLeft()
        self._products: BilinearProducts = PatternProducts(rows, cols, template, self.memory)

    @property
    def shape(self) -> tuple[int, int]:
        """Global shape of the matrix."""
        return self._pattern.shape

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

    @property
    def nnz_local(self) -> int:
        """Number of entries that this rank gives."""
        return int(self._pattern.rows.size)

    def check_form(self, values: Any) -> Exception | None:
        """Return an InputError for values of a wrong kind or shape, else None."""
        nnz = self.nnz_local
        if not is_real_tensor(values):
            return InputError(
                f"values must be a tensor of real floating-point numbers, not {_kind(values)}"
            )
        if values.dim() not in (1, 2) or values.shape[-1] != nnz or values.shape[0] == 0 < nnz:
            wanted = f"({nnz},) or, for M matrices, (M, {nnz})"
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
                f"(row {self._pattern.rows[bad]}, column {self._pattern.cols[bad]}): look at what "
                "produced them"
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
        return self._pattern.rows, self._pattern.cols, None, 0

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
        R. They may also be one vector `(n_local,)` each.
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
    kind = kind_of_argument(value)
    return f"a tensor of {kind}" if kind.startswith("torch.") else kind
