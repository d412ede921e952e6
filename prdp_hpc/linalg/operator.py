"""Sparse matrices with a fixed pattern and differentiable values."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import ArrayLike
from torch import Tensor

from prdp_hpc.distributed.collective import call_together, raise_together
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg.bilinear import BilinearProducts
from prdp_hpc.linalg.loaded_values import LoadedValues
from prdp_hpc.linalg.method_types import OWN_PRECONDITIONERS
from prdp_hpc.linalg.nullspaces import Nullspaces, create_nullspaces
from prdp_hpc.linalg.pattern import check_scalars, entries_of, wrong_pattern
from prdp_hpc.linalg.pattern_products import PatternProducts
from prdp_hpc.linalg.pool import Lease, Pool
from prdp_hpc.linalg.promises import PromiseCheck
from prdp_hpc.linalg.torch_petsc import Array, has_bad_numbers, in_double, is_real_tensor, to_host
from prdp_hpc.petsc import PETSc

Product = Callable[[Tensor], Tensor]


class Operator(ABC):
    """A square linear map `A(values)` on vectors divided among the ranks of `comm`.

    Attributes
    ----------
    matrix : the PETSc matrix that the KSPs see; it holds the values loaded last.
    n_local : entries of a vector on this rank; `row_range`: their global numbers (start, end).
    symmetric : whether `A = Aᵀ`, so that the adjoint solve may use `A` itself.
    grid : the grid that the vectors live on, if there is one (needed for `pc="mg"`).
    loaded : which values the matrix holds.
    is_read_by_derivatives : whether derivatives of a solve read the values once more, and not only
        the matrix.
    failure : the exception that the operator's own code raised inside a PETSc call, until a solver
        passes it on.
    nullspaces : those of the matrix and its transpose, if they were given.
    promises_hold : whether `symmetric` and `nullspaces` hold by the way in which the values are
        made, so that they need no check.

    A copy, also a deep one, shares the matrix: the values come with each solve. An operator cannot
    be pickled.
    """

    matrix: Any
    comm: MPI.Comm
    symmetric: bool
    grid: Grid | None
    nullspaces: Nullspaces | None = None
    promises_hold: bool = False
    is_read_by_derivatives = False

    def __init__(self, comm: MPI.Comm, symmetric: bool, grid: Grid | None) -> None:
        check_scalars()
        self.comm, self.symmetric, self.grid = comm, symmetric, grid
        self.loaded = LoadedValues()
        self.failure: Exception | None = None
        self._promises: PromiseCheck | None = None

    def __copy__(self) -> Operator:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Operator:
        return self

    def __reduce__(self) -> Any:
        raise InputError(
            f"a {type(self).__name__} belongs to the processes of its communicator and cannot be "
            "pickled: pickle what it is made from (the pattern, the grid's shape, the values), and "
            "make it again where it is needed"
        )

    @property
    def promises(self) -> PromiseCheck:
        """The check of what this operator promises and methods rely on; made on first use."""
        if self._promises is None or self._promises.matrix is not self.matrix:
            self._promises = PromiseCheck(self.matrix, self.has_single_values)
        return self._promises

    def has_single_values(self) -> bool:
        """Whether the values that were loaded last are numbers in single precision, on this
        rank.
        """
        return False

    @property
    def n_local(self) -> int:
        """Entries of a vector on this rank."""
        return int(self.matrix.getLocalSize()[0])

    @property
    def row_range(self) -> tuple[int, int]:
        """Global numbers of this rank's rows: first, and one after the last."""
        start, end = self.matrix.getOwnershipRange()
        return int(start), int(end)

    def as_entries(self, values: Any) -> Any:
        """What `solve` is given, in the form that the other methods take; unchanged where its form
        is wrong. Differentiable, and not collective.
        """
        return values

    @abstractmethod
    def check_form(self, values: Any) -> Exception | None:
        """What is wrong with the kind or shape of the values on this rank, if anything; cheap, not
        collective.
        """

    @abstractmethod
    def check_numbers(self, host: Array | None) -> Exception | None:
        """A ValueError if values of the right form, on the host, hold NaN or infinity on this rank;
        not collective.
        """

    def check_preconditioner(self, pc: str) -> None:  # noqa: B027 - most operators take any
        """Raise a ValueError if this operator cannot be preconditioned with `pc`."""

    @property
    def loads(self) -> int:
        """How often values were put into the matrix; tells whether it still holds what it held
        before.
        """
        return self.loaded.loads

    def differs(self, values: Tensor | Array | None) -> bool:
        """Whether `values`, of the right form, are other numbers than the loaded ones, on this
        rank; a comparison number by number.
        """
        return self.loaded.differ_from(None if values is None else to_host(values))

    def load(self, values: Tensor | Array | None) -> None:
        """Put the values into the matrix; collective. Every solver sees the change and sets up
        again.
        """
        host = None if values is None else to_host(values)
        self.loaded.replace(host)
        self._put(host)

    @abstractmethod
    def _put(self, host: Array | None) -> None: ...

    @abstractmethod
    def values_gradient(self, values: Any, adjoint: Tensor, solution: Tensor) -> Tensor:
        """`−∂(λᵀ A(values) x)/∂values`, summed over a batch; `adjoint` λ, `solution` x: `(B,
        n_local)`. Differentiable to any order; collective.
        """

    @abstractmethod
    def tangent_product(
        self, values: Any, tangent: Tensor, x: Tensor, transposed: bool = False
    ) -> Tensor:
        """`Ȧ x`, or `Ȧᵀ x`, with the derivative Ȧ of `A(values)` along `tangent`; x `(B, n_local)`.
        Differentiable to any order; collective.
        """

    @abstractmethod
    def diagonal_of(self, values: Any) -> Tensor:
        """The diagonal `(n_local,)` of `A(values)`, differentiable with respect to the values;
        collective.
        """

    @property
    def nullspace_basis(self) -> Tensor | None:
        """This rank's part `(k, n_local)` of orthonormal vectors that the matrix maps to 0, if they
        were given.
        """
        return None if self.nullspaces is None else self.nullspaces.right.tensor

    @property
    def left_nullspace_basis(self) -> Tensor | None:
        """The same for the transpose of the matrix."""
        return None if self.nullspaces is None else self.nullspaces.left.tensor

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
    constant_nullspace : promise that `A 1 = 0`, and `Aᵀ 1 = 0` unless `left_nullspace` is given, as
        for periodic and Neumann problems; the solution with mean 0 is found.
    nullspace : this rank's part `(n_local,)` of another vector z with the promise `A z = 0`, and
        `Aᵀ z = 0` unless `left_nullspace` is given; or `(k, n_local)` of several, as the 3 or 6
        motions of a rigid body.
    left_nullspace : as many vectors w with the promise `Aᵀ w = 0`, where they are other ones: a
        conservative flux matrix, whose columns sum to 0, has the constant there.

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
    ) -> None:
        super().__init__(MPI.COMM_WORLD if comm is None else comm, symmetric, grid)
        rows, cols = np.asarray(rows), np.asarray(cols)
        raise_together(self.comm, wrong_pattern(rows, cols, shape, grid))
        self._rows, self._cols = (index.astype(PETSc.IntType) for index in (rows, cols))
        given = nullspace is None, left_nullspace is None
        properties = (tuple(shape), symmetric, constant_nullspace, *given)
        if self.comm.size > 1 and len(set(self.comm.allgather(properties))) > 1:
            raise InputError("the ranks gave one operator different shapes or properties")
        self.shape = (int(shape[0]), int(shape[1]))
        if n_local is None:
            n_local = PETSc.DECIDE if grid is None else grid.n_local
        self._n_local = int(PETSc.Sys.splitOwnership((n_local, self.shape[0]), comm=self.comm)[0])
        self.nullspaces = create_nullspaces(
            self.comm, self._n_local, constant_nullspace, nullspace, left_nullspace
        )
        self.matrix = self._create_matrix()
        self.members: Pool[SparseOperator] = Pool()
        self._products: BilinearProducts = PatternProducts(
            self._rows, self._cols, self.matrix.createVecLeft()
        )

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
        return self.members.most

    @matrix_sets.setter
    def matrix_sets(self, count: int) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"matrix_sets must be a whole number of at least 1, not {count!r}")
        self.members.most = count

    def _sibling(self) -> SparseOperator:
        """The same pattern with a matrix of its own; whatever was found out about the pattern is
        shared.
        """
        twin = copy.copy(self)
        twin.matrix = _duplicate(self.matrix)
        twin.loaded = LoadedValues()
        return twin

    def take_members(self, count: int) -> Lease[SparseOperator]:
        """At least `count` operators with this pattern and a matrix each, for values `(count,
        nnz_local)`; collective.

        The caller's until it gives the list to `give_back_members`, or drops it on all ranks; they
        are made once and used again.
        """
        return self.members.take(count, self._sibling)

    def touch_members(self, members: Lease[SparseOperator]) -> None:
        """The members' matrices are used once more; their values may have changed since."""
        self.members.touch(members)

    def give_back_members(self, members: Lease[SparseOperator]) -> None:
        """The members' matrices are needed no more, on any rank."""
        self.members.give_back(members)

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

    def coo_values(self, host: Array | None) -> Array | None:
        """The numbers of the pattern's entries, in its order, of values on the host."""
        return host

    def _put(self, host: Array | None) -> None:
        self.matrix.setValuesCOO(self.coo_values(host))

    def has_single_values(self) -> bool:
        """See `Operator`."""
        loaded = self.loaded.copy
        return loaded is not None and bool((loaded.astype(np.float32) == loaded).all())

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


def _duplicate(matrix: Any) -> Any:
    """A matrix of the same pattern, without values; PETSc does not hand its nullspaces on."""
    twin = matrix.duplicate()
    for kind in ("NullSpace", "TransposeNullSpace", "NearNullSpace"):
        nullspace = getattr(matrix, f"get{kind}")()
        if nullspace:
            getattr(twin, f"set{kind}")(nullspace)
    return twin


def _kind(value: Any) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
