"""The interface that a solve needs of its matrix, and the values that a matrix holds."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.autograd.transforms import is_wrapped
from prdp_hpc.distributed.communicators import serial_number
from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg.arrays import Numbers, are_single, copied, differ, digest, same_bytes
from prdp_hpc.linalg.method_types import OWN_PRECONDITIONERS
from prdp_hpc.linalg.nullspaces import Nullspaces
from prdp_hpc.linalg.preconditioner_data import PreconditionerData
from prdp_hpc.linalg.preconditioning_matrix import (
    PreconditioningMatrix,
    create_preconditioning_matrix,
)
from prdp_hpc.linalg.promises import PromiseCheck
from prdp_hpc.linalg.torch_petsc import HOST, Memory, is_aij, to_memory
from prdp_hpc.petsc import PETSc

Product = Callable[[Tensor], Tensor]


BLOCK = 32_768
"""Number of values per block of a comparison."""


class Load:
    """Identifies one load of values into a matrix, for the derivatives of a solve.

    Attributes
    ----------
    digest : of the values, computed when others replace them.
    """

    digest = 0


class LoadedValues:
    """A private copy of the values that a matrix holds, by which every change is detected: by
    torch, through `.data`, or by NumPy in the same memory.

    Attributes
    ----------
    loads : how often values were loaded.
    copy : the values, in double precision; None if there are none.
    """

    def __init__(self) -> None:
        self.loads = 0
        self.copy: Numbers | None = None
        # Where the copy is, once numbers were found to be equal to it: NaN is equal to nothing.
        self._address: int | None = None
        self._load: weakref.ref[Load] | None = None

    def differ_from(self, host: Numbers | None) -> bool:
        """Whether these numbers (or their shape) differ from the loaded ones, on this
        rank.
        """
        if host is None or self.copy is None:
            return self.loads == 0 or (host is None) != (self.copy is None)
        if self.copy.shape != host.shape or differ(self.copy, host, BLOCK):
            return True
        if isinstance(self.copy, np.ndarray):
            self._address = self.copy.ctypes.data
        return False

    def has_bytes_of(self, values: Tensor | None) -> bool:
        """Whether the values are those of the copy byte for byte, so that nothing has to be
        converted or compared as numbers; False also where that is not known.
        """
        return (
            self._address is not None
            and values is not None
            and self.copy is not None
            and values.dtype is torch.float64
            and values.shape == self.copy.shape
            and values.is_cpu
            and values.is_contiguous()
            and not values.is_neg()
            and not is_wrapped(values)
            and same_bytes(values.data_ptr(), self._address, self.copy.nbytes)
        )

    def are_single(self) -> bool:
        """Whether all values are single-precision numbers, on this rank."""
        return self.copy is not None and are_single(self.copy)

    def replace(self, host: Numbers | None) -> None:
        """Register that these values are loaded now."""
        load = self._current()
        # Only if a solve refers to the earlier values, because a digest reads all of them.
        if load is not None:
            load.digest = digest(self.copy)
        self._load = self._address = None
        self.loads += 1
        self.copy = None if host is None else copied(host)

    def remember(self) -> Load:
        """The load of the values that the matrix holds now."""
        load = self._current()
        if load is None:
            load = Load()
            self._load = weakref.ref(load)
        return load

    def hold(self, load: Load) -> bool:
        """Whether the matrix still holds the values of that load."""
        return self._current() is load

    def changed_since(self, load: Load, host: Numbers | None) -> bool:
        """Whether these numbers differ from those of an earlier load, on this rank."""
        return self.differ_from(host) if self.hold(load) else digest(host) != load.digest

    def _current(self) -> Load | None:
        return None if self._load is None else self._load()


class Operator(ABC):
    """A square linear map `A(values)` on vectors that are divided among the ranks of `comm`.

    Attributes
    ----------
    matrix : petsc4py.PETSc.Mat
        The matrix of the KSPs; it holds the values that were loaded last.
    memory : Memory
        The memory of the matrix and of the vectors of its solves.
    symmetric : bool
        Whether `A = Aᵀ`, so that the adjoint solve may use `A` itself.
    grid : Grid or None
        The grid of the vectors, if there is one (needed for `pc="mg"`).
    number : int
        Its number among the operators of its communicator, which ranks compare in each solve.
    loaded : LoadedValues
        Which values the matrix holds.
    usual_shapes : tuple of tuples or None
        Shapes of the values of one matrix and of a right-hand side, where nothing else is to be
        checked of tensors in double precision on the host; None for values of another form.
    is_read_by_derivatives : bool
        Whether derivatives of a solve read the values again, and not only the matrix.
    takes_batches : bool
        Whether values of two dimensions are those of several matrices.
    failure : BaseException or None
        An exception that the operator's own code raised inside a PETSc call, until a solver raises
        it.
    nullspaces : Nullspaces or None
        Those of the matrix and its transpose, if they were given.
    preconditioner_data : PreconditionerData or None
        Near-nullspace, coordinates and fields, if they were given.
    promises_hold : bool
        Whether `symmetric` and `nullspaces` hold by construction of the values, so that no check is
        needed.

    Notes
    -----
    A copy, also a deep one, is the operator itself, because the values are passed to each solve. An
    operator cannot be pickled.
    """

    matrix: Any
    comm: MPI.Comm
    symmetric: bool
    grid: Grid | None
    nullspaces: Nullspaces | None = None
    promises_hold: bool = False
    memory: Memory = HOST
    usual_shapes: tuple[tuple[int], tuple[int]] | None = None
    is_read_by_derivatives = False
    takes_batches = False

    def __init__(self, comm: MPI.Comm, symmetric: bool, grid: Grid | None) -> None:
        self.loaded = LoadedValues()
        _check_scalars()
        self.comm, self.symmetric, self.grid = comm, symmetric, grid
        self.number = serial_number(comm)
        self.failure: BaseException | None = None
        self.preconditioner_data = PreconditionerData()
        self._preconditioning: PreconditioningMatrix | None = None
        self._promises: PromiseCheck | None = None
        # Whether values of a solve were multiplied by a power of two, see `extreme_values`.
        self.is_scaled = False
        # The state of the matrix, and its norm then.
        self._norm: tuple[int, float] = (-1, 0.0)

    def __copy__(self) -> Operator:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Operator:
        return self

    def __reduce__(self) -> Any:
        raise InputError(
            f"a {type(self).__name__} belongs to the processes of its communicator and cannot be "
            "pickled: pickle its data (the pattern, the grid's shape, the values), and make "
            "the operator from them"
        )

    @property
    def promises(self) -> PromiseCheck:
        """The check of the properties that methods rely on; made on first use."""
        if self._promises is None or self._promises.matrix is not self.matrix:
            self._promises = PromiseCheck(self.matrix, self.has_single_values, self.memory)
        return self._promises

    def has_single_values(self) -> bool:
        """Return whether the loaded values are in single precision on this rank."""
        return False

    @property
    def preconditioner(self) -> PreconditioningMatrix | None:
        """Another matrix that preconditioners are made from; None: the matrix itself.

        Set it to a pair `(operator, values)`, where the rows of the other operator are divided in
        the same way, or to None; collective. It affects gradients only through the accuracy of the
        solves.
        """
        return self._preconditioning

    @preconditioner.setter
    def preconditioner(self, pair: Any) -> None:
        self._preconditioning = create_preconditioning_matrix(self, pair)

    @property
    def preconditioning_operator(self) -> Operator:
        """The operator whose matrix preconditioners are made from."""
        return self if self.preconditioner is None else self.preconditioner.operator

    def on(self, device: torch.device) -> Operator:
        """Return the operator for tensors on a device: itself, or one of the same pattern.

        The other operator is in the memory of that device. Operators that call the user's code stay
        on the host.
        """
        return self

    def norm(self) -> float:
        """Return the largest sum of the sizes of a row's entries, 0 where the host has no entries.

        Collective after a change of the matrix.
        """
        state = self.matrix.stateGet()
        if self._norm[0] != state:
            has_entries = is_aij(self.matrix) and not self.memory.kind
            size = self.matrix.norm(PETSc.NormType.INFINITY) if has_entries else 0.0
            self._norm = state, float(size)
        return self._norm[1]

    @property
    def n_local(self) -> int:
        """Number of entries of a vector on this rank."""
        return int(self.matrix.getLocalSize()[0])

    @property
    def row_range(self) -> tuple[int, int]:
        """Global numbers of this rank's rows: first, and last plus one."""
        start, end = self.matrix.getOwnershipRange()
        return int(start), int(end)

    def as_entries(self, values: Any) -> Any:
        """Return the argument `values` of `solve` in the form of the other methods.

        Values of a wrong form are returned unchanged. Differentiable, not collective.
        """
        return values

    @abstractmethod
    def check_form(self, values: Any) -> Exception | None:
        """Return an error for values of a wrong kind or shape on this rank, else None.

        Cheap, not collective.
        """

    @abstractmethod
    def check_numbers(self, host: Numbers | None) -> Exception | None:
        """Return an InputError for values with NaN or infinity on this rank, else None.

        The values are on the host and of the right form; not collective.
        """

    def check_preconditioner(self, pc: str) -> None:  # noqa: B027 - most operators take any
        """Raise an InputError if this operator cannot be preconditioned with `pc`."""

    @property
    def loads(self) -> int:
        """How often values were loaded; by this number a later change is detected."""
        return self.loaded.loads

    def differs(self, values: Tensor | Numbers | None) -> bool:
        """Return whether `values` differ from the loaded ones on this rank, number by number."""
        return self.loaded.differ_from(self._numbers(values))

    def is_loaded_with(self, values: Tensor | None) -> bool:
        """Return whether `values` are the loaded ones on this rank, byte for byte.

        If not, or if that is not known, `differs` decides.
        """
        return self.loaded.has_bytes_of(values)

    def holds(self, load: Load) -> bool:
        """Return whether the matrix still holds the values of an earlier load on this rank."""
        return self.loaded.hold(load)

    def load(self, values: Tensor | Numbers | None) -> None:
        """Put the values into the matrix; collective. Solvers then set up again."""
        numbers = self._numbers(values)
        self.loaded.replace(numbers)
        self._put(numbers)

    def _numbers(self, values: Tensor | Numbers | None) -> Numbers | None:
        """The values in the operator's memory."""
        if values is None or (self.memory is HOST and isinstance(values, np.ndarray)):
            return values
        return to_memory(values, self.memory)

    @contextmanager
    def holding(self, host: Numbers | None) -> Iterator[None]:
        """Load other values during a block, which `loads` does not count; collective."""
        self._put(host)
        try:
            yield
        finally:
            self._put(self.loaded.copy)

    @abstractmethod
    def _put(self, host: Numbers | None) -> None: ...

    @abstractmethod
    def values_gradient(self, values: Any, adjoint: Tensor, solution: Tensor) -> Tensor:
        """Return `−∂(λᵀ A(values) x)/∂values`, summed over a batch.

        `adjoint` is λ and `solution` is x, both `(B, n_local)`. Differentiable to any order;
        collective.
        """

    @abstractmethod
    def tangent_product(
        self, values: Any, tangent: Tensor, x: Tensor, transposed: bool = False
    ) -> Tensor:
        """Return `Ȧ x`, or `Ȧᵀ x`, with the derivative Ȧ of `A(values)` along `tangent`.

        x is `(B, n_local)`. Differentiable to any order; collective.
        """

    @abstractmethod
    def diagonal_of(self, values: Any) -> Tensor:
        """Return the diagonal `(n_local,)` of `A(values)`; differentiable, collective."""

    @property
    def nullspace_basis(self) -> Tensor | None:
        """This rank's part `(k, n_local)` of an orthonormal basis of the nullspace, or None."""
        return None if self.nullspaces is None else self.nullspaces.right.tensor

    @property
    def left_nullspace_basis(self) -> Tensor | None:
        """The same for the transpose of the matrix."""
        return None if self.nullspaces is None else self.nullspaces.left.tensor

    def attach_preconditioner(self, pc: Any, name: str) -> None:
        """Give a PETSc PC this operator's data: coordinates, fields, or its own preconditioner."""
        if name in OWN_PRECONDITIONERS:
            raise no_own_preconditioner(name)
        for operator in dict.fromkeys((self, self.preconditioning_operator)):
            operator.preconditioner_data.attach_to_preconditioner(pc)

    def differentiable_preconditioner(
        self, name: str, diagonal: Tensor
    ) -> Callable[[Tensor, Product], Tensor]:
        """Return the operator's own preconditioner in torch, `(r, product) ↦ M⁻¹ r`; collective.

        It is for M matrices with these diagonals `(M, n_local)`, and differentiable with respect to
        `r (M R, n_local)`, the diagonals, and the inputs of `product(x) = A x`.
        """
        raise no_own_preconditioner(name)


def _check_scalars() -> None:
    """Raise a ValueError unless PETSc computes with real numbers in double precision."""
    if np.dtype(PETSc.ScalarType) != np.float64:
        raise InputError(
            f"this PETSc computes with {np.dtype(PETSc.ScalarType)}, and prdp-hpc needs one built "
            "with real scalars in double precision (--with-scalar-type=real "
            "--with-precision=double)"
        )


def no_own_preconditioner(pc: str) -> ValueError:
    """The error for a preconditioner that the operator does not have."""
    return InputError(f"pc={pc!r} is available for the operators of some PDEs only: use another pc")
