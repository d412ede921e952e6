"""Sparse matrices with a fixed pattern and differentiable values."""

from __future__ import annotations

import copy
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import ArrayLike
from petsc4py import PETSc
from torch import Tensor

from prdp_hpc.collective import raise_together
from prdp_hpc.errors import InputError
from prdp_hpc.grid import Grid
from prdp_hpc.linalg.bridge import Array, has_bad_numbers, is_real_tensor, to_host
from prdp_hpc.linalg.ghosts import GhostedIndex
from prdp_hpc.linalg.pool import Pool

OWN_PRECONDITIONERS = ("constraint",)
"""Names of preconditioners that PETSc does not have, and an operator may bring along."""

Product = Callable[[Tensor], Tensor]


class Operator(ABC):
    """A square linear map `A(values)` on vectors divided among the ranks of `comm`.

    Attributes
    ----------
    matrix : the PETSc matrix that the KSPs see; it holds the values loaded last.
    n_local : entries of a vector on this rank; `row_range`: their global numbers (start, end).
    symmetric : whether `A = Aᵀ`, so that the adjoint solve may use `A` itself.
    grid : the grid that the vectors live on, if there is one (needed for `pc="mg"`).
    loads : how often values were put into the matrix; tells whether it still holds what it held
        before.
    failure : the exception that the operator's own code raised inside a PETSc call, until a solver
        passes it on.
    """

    matrix: Any
    comm: MPI.Comm
    symmetric: bool
    grid: Grid | None

    def __init__(self, comm: MPI.Comm, symmetric: bool, grid: Grid | None) -> None:
        self.comm, self.symmetric, self.grid = comm, symmetric, grid
        self.loads = 0
        self.failure: Exception | None = None
        self._copy: Array | None = None
        self._seen: tuple[weakref.ref[Tensor], int] | None = None

    @property
    def n_local(self) -> int:
        """Entries of a vector on this rank."""
        return int(self.matrix.getLocalSize()[0])

    @property
    def row_range(self) -> tuple[int, int]:
        """Global numbers of this rank's rows: first, and one after the last."""
        start, end = self.matrix.getOwnershipRange()
        return int(start), int(end)

    @abstractmethod
    def check_form(self, values: Any) -> Exception | None:
        """What is wrong with the kind or shape of the values on this rank, if anything; cheap, not
        collective.
        """

    @abstractmethod
    def check_numbers(self, values: Any) -> Exception | None:
        """A ValueError if values of the right form hold NaN or infinity on this rank; not
        collective.
        """

    def check_preconditioner(self, pc: str) -> None:  # noqa: B027 - most operators take any
        """Raise a ValueError if this operator cannot be preconditioned with `pc`."""

    def differs(self, values: Any) -> bool:
        """Whether `values`, of the right form, are other numbers than the loaded ones, on this
        rank.

        A tensor seen before is known by torch's version counter; another one is compared number by
        number.
        """
        if values is None or self._copy is None:
            return self.loads == 0 or (values is None) != (self._copy is None)
        version = _version(values)
        if self._seen is not None and self._seen[0]() is values and self._seen[1] == version:
            return False
        same = np.array_equal(self._copy, to_host(values))
        if same:
            self._remember(values)
        return not same

    def load(self, values: Any) -> None:
        """Put the values into the matrix; collective. Every solver sees the change and sets up
        again.
        """
        self._put(values)
        self.loads += 1
        self._copy, self._seen = None, None
        if values is not None:
            self._copy = to_host(values).copy()
            self._remember(values)

    def _remember(self, values: Tensor) -> None:
        version = _version(values)
        self._seen = None if version is None else (weakref.ref(values), version)

    @abstractmethod
    def _put(self, values: Any) -> None: ...

    @abstractmethod
    def values_gradient(self, values: Any, adjoint: Tensor, solution: Tensor) -> Tensor:
        """`−∂(λᵀ A(values) x)/∂values`, summed over a batch; `adjoint` λ, `solution` x: `(B,
        n_local)`.
        """

    @abstractmethod
    def diagonal_of(self, values: Any) -> Tensor:
        """The diagonal `(n_local,)` of the loaded matrix, differentiable with respect to its
        values; collective.
        """

    @property
    def nullspace_basis(self) -> Tensor | None:
        """This rank's part `(n_local,)` of the vector of length 1 that the matrix maps to 0, if one
        was given.
        """
        return None

    def attach_preconditioner(self, pc: Any, name: str) -> None:
        """Give a PETSc PC what it needs to know of this operator: fields of "fieldsplit", or one of
        our own.
        """
        if name in OWN_PRECONDITIONERS:
            raise _no_own(name)

    def differentiable_preconditioner(
        self, name: str, diagonal: Tensor
    ) -> Callable[[Tensor, Product], Tensor]:
        """One of our own in torch, `(r, product) ↦ M⁻¹ r`, for M matrices with these diagonals `(M,
        n_local)`; collective.

        Differentiable with respect to `r (M R, n_local)`, the diagonals, and what `product(x) = A
        x` is differentiable in.
        """
        raise _no_own(name)


def _no_own(pc: str) -> ValueError:
    return InputError(
        f"pc={pc!r} is made by a physics' own operator, and this one has none: use another pc"
    )


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
    constant_nullspace : promise that `A 1 = 0` and `Aᵀ 1 = 0`, as for periodic and Neumann
        problems; the solution with mean 0 is found.
    nullspace : this rank's part `(n_local,)` of another vector z with the promise `A z = 0` and `Aᵀ
        z = 0`; the solution orthogonal to it is found.

    Raises
    ------
    ValueError
        For a pattern that does not fit the shape, a matrix that is not square, a nullspace of a
        wrong length or given in both ways, or ranks that disagree.

    Notes
    -----
    PETSc manual pages: MatSetPreallocationCOO, MatSetValuesCOO, MatSetNullSpace.
    """

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
    ) -> None:
        super().__init__(MPI.COMM_WORLD if comm is None else comm, symmetric, grid)
        rows, cols = np.asarray(rows), np.asarray(cols)
        raise_together(self.comm, _wrong_pattern(rows, cols, shape, grid))
        self._rows, self._cols = (index.astype(PETSc.IntType) for index in (rows, cols))
        properties = (tuple(shape), symmetric, constant_nullspace, nullspace is None)
        if self.comm.size > 1 and len(set(self.comm.allgather(properties))) > 1:
            raise InputError("the ranks gave one operator different shapes or properties")
        self.shape = (int(shape[0]), int(shape[1]))
        if n_local is None:
            n_local = PETSc.DECIDE if grid is None else grid.n_local
        self._n_local = int(PETSc.Sys.splitOwnership((n_local, self.shape[0]), comm=self.comm)[0])
        raise_together(self.comm, _wrong_nullspace(self._n_local, constant_nullspace, nullspace))
        self._nullspace = _nullspace(self.comm, constant_nullspace, nullspace)
        self.matrix = self._create_matrix()
        self._members: Pool[SparseOperator] = Pool()

    def _create_matrix(self) -> Any:
        n = self.shape[0]
        matrix = PETSc.Mat().create(comm=self.comm)
        matrix.setSizes(((self._n_local, n), (self._n_local, n)))
        matrix.setType("aij")
        # PETSc may reorder what it is given.
        matrix.setPreallocationCOO(self._rows.copy(), self._cols.copy())
        if self.symmetric:
            matrix.setOption(PETSc.Mat.Option.SYMMETRIC, True)
            matrix.setOption(PETSc.Mat.Option.SYMMETRY_ETERNAL, True)
        if self._nullspace is not None:
            matrix.setNullSpace(self._nullspace)
            matrix.setTransposeNullSpace(self._nullspace)
        return matrix

    def _sibling(self) -> SparseOperator:
        """The same pattern with a matrix of its own; whatever was found out about the pattern is
        shared.
        """
        twin = copy.copy(self)
        twin.matrix = twin._create_matrix()
        twin.loads, twin._copy, twin._seen = 0, None, None
        return twin

    def take_members(self, count: int) -> list[SparseOperator]:
        """At least `count` operators with this pattern and a matrix each, for values `(count,
        nnz_local)`; collective.

        The caller's until it gives the list to `give_back_members`; they are made once and used
        again.
        """
        return self._members.take(count, self._sibling)

    def give_back_members(self, members: list[SparseOperator]) -> None:
        """The members' matrices are needed no more, on any rank."""
        self._members.give_back(members)

    @classmethod
    def from_scipy(
        cls, matrix: Any, comm: MPI.Comm | None = None, **options: Any
    ) -> tuple[SparseOperator, Tensor]:
        """The operator of a SciPy sparse matrix that every rank holds, and this rank's values.

        Each rank takes the entries of its own rows: `values` has shape `(nnz_local,)`, float64.
        `options` are those of `SparseOperator`.
        """
        world = MPI.COMM_WORLD if comm is None else comm
        csr = matrix.tocsr(copy=True)
        csr.sum_duplicates()
        n, rank, size = csr.shape[0], world.rank, world.size
        start = rank * (n // size) + min(rank, n % size)
        part = csr[start : start + n // size + (1 if rank < n % size else 0)].tocoo()
        values = torch.from_numpy(np.ascontiguousarray(part.data, dtype=np.float64))
        return cls(part.row.astype(np.int64) + start, part.col, csr.shape, world, **options), values

    @property
    def nnz_local(self) -> int:
        """Entries that this rank gives."""
        return int(self._rows.size)

    @cached_property
    def _row_index(self) -> GhostedIndex:
        return GhostedIndex(self._rows, self.matrix.createVecLeft())

    @cached_property
    def _col_index(self) -> GhostedIndex:
        return GhostedIndex(self._cols, self.matrix.createVecRight())

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

    def check_numbers(self, values: Tensor) -> Exception | None:
        """A ValueError that names the first entry that is not finite."""
        if has_bad_numbers(to_host(values)):
            bad = int(torch.nonzero(~torch.isfinite(values.detach()))[0, -1])
            return InputError(
                f"the matrix values hold NaN or infinity, first in entry {bad} "
                f"(row {self._rows[bad]}, column {self._cols[bad]}): look at what produced them"
            )
        return None

    def _put(self, values: Tensor) -> None:
        self.matrix.setValuesCOO(to_host(values))

    def diagonal_of(self, values: Any) -> Tensor:
        """The sum of the entries on each row's diagonal, whichever rank gave them."""
        diagonal: Tensor = _Diagonal.apply(values, self)  # type: ignore[no-untyped-call]
        return diagonal

    @cached_property
    def nullspace_basis(self) -> Tensor | None:
        """The constant, or the vector given as `nullspace`, with length 1."""
        if self._nullspace is None:
            return None
        vectors = self._nullspace.getVecs()
        if vectors:
            return torch.from_numpy(vectors[0].getArray(readonly=True).copy())
        return torch.full((self.n_local,), self.shape[0] ** -0.5, dtype=torch.float64)

    def values_gradient(self, values: Tensor, adjoint: Tensor, solution: Tensor) -> Tensor:
        """`∂L/∂value_k = −λ[row_k] · x[col_k]`, summed over the batch.

        For values `(M, nnz_local)`, λ and x are `(M, R, n_local)` and the sum runs over R.
        """
        total = torch.zeros(*adjoint.shape[:-2], self.nnz_local, dtype=torch.float64)
        for right in range(adjoint.shape[-2]):
            total.addcmul_(
                self._row_index(adjoint[..., right, :]),
                self._col_index(solution[..., right, :]),
                value=-1.0,
            )
        return total


class _Diagonal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, operator: SparseOperator) -> Tensor:
        ctx.operator = operator
        vector = operator.matrix.getDiagonal()
        diagonal = torch.from_numpy(vector.getArray(readonly=True).copy())
        # PETSc would keep what Python drops, on several ranks.
        vector.destroy()
        return diagonal

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        operator = ctx.operator
        on_diagonal = torch.from_numpy(operator._rows == operator._cols)
        return torch.where(on_diagonal, operator._row_index(grads[0].contiguous()), 0.0), None


def _nullspace(comm: MPI.Comm, constant: bool, vector: ArrayLike | None) -> Any:
    if vector is None:
        return PETSc.NullSpace().create(constant=True, comm=comm) if constant else None
    basis = PETSc.Vec().createWithArray(np.array(vector, dtype=np.float64), comm=comm)
    length = basis.normalize()
    if not 0.0 < length < np.inf:
        raise InputError("a vector of the nullspace must be finite, and not zero")
    return PETSc.NullSpace().create(constant=False, vectors=[basis], comm=comm)


def _wrong_nullspace(n_local: int, constant: bool, vector: ArrayLike | None) -> ValueError | None:
    if vector is None:
        return None
    if constant:
        return InputError(
            "constant_nullspace and nullspace each name the one vector of the nullspace: give one "
            "of them"
        )
    if np.shape(vector) != (n_local,):
        return InputError(
            f"nullspace must have one number per row of this rank, shape ({n_local},), not "
            f"{np.shape(vector)}"
        )
    return None


def _version(values: Tensor) -> int | None:
    """Torch's count of in-place changes; tensors made in inference mode have none."""
    return None if values.is_inference() else values._version


def _kind(value: Any) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def _wrong_pattern(
    rows: Any, cols: Any, shape: tuple[int, int], grid: Grid | None
) -> ValueError | None:
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 1:
        return InputError(
            "an operator to solve with must be square with at least one row, not of shape "
            f"{tuple(shape)}"
        )
    if grid is not None and grid.size != shape[0]:
        return InputError(
            f"the operator has {shape[0]} rows, its grid {grid.size} points: they must be the same "
            "number"
        )
    if rows.ndim != 1 or rows.shape != cols.shape:
        return InputError(
            f"rows and cols must be two lists of the same length, not of shapes {rows.shape} and "
            f"{cols.shape}"
        )
    if rows.size and not (
        np.issubdtype(rows.dtype, np.integer) and np.issubdtype(cols.dtype, np.integer)
    ):
        return InputError(f"rows and cols must be whole numbers, not {rows.dtype} and {cols.dtype}")
    for name, index in (("rows", rows), ("cols", cols)):
        if index.size and (index.min() < 0 or index.max() >= shape[0]):
            return InputError(
                f"{name} must lie in 0 … {shape[0] - 1}, but reach from {index.min()} to "
                f"{index.max()}"
            )
    return None
