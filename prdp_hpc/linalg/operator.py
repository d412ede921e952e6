"""What a solve needs of the matrix that it solves with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.errors import InputError
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg.arrays import Numbers
from prdp_hpc.linalg.loaded_values import Load, LoadedValues
from prdp_hpc.linalg.memory import HOST, Memory
from prdp_hpc.linalg.method_types import OWN_PRECONDITIONERS
from prdp_hpc.linalg.nullspaces import Nullspaces
from prdp_hpc.linalg.pattern import check_scalars
from prdp_hpc.linalg.preconditioner_data import PreconditionerData
from prdp_hpc.linalg.preconditioning_matrix import (
    PreconditioningMatrix,
    create_preconditioning_matrix,
)
from prdp_hpc.linalg.promises import PromiseCheck
from prdp_hpc.linalg.torch_petsc import to_memory

Product = Callable[[Tensor], Tensor]


class Operator(ABC):
    """A square linear map `A(values)` on vectors divided among the ranks of `comm`.

    Attributes
    ----------
    matrix : the PETSc matrix that the KSPs see; it holds the values loaded last.
    memory : where the matrix and the vectors of its solves are.
    n_local : entries of a vector on this rank; `row_range`: their global numbers (start, end).
    symmetric : whether `A = Aᵀ`, so that the adjoint solve may use `A` itself.
    grid : the grid that the vectors live on, if there is one (needed for `pc="mg"`).
    loaded : which values the matrix holds.
    is_read_by_derivatives : whether derivatives of a solve read the values once more, and not only
        the matrix.
    takes_batches : whether values of two dimensions are those of several matrices.
    failure : the exception that the operator's own code raised inside a PETSc call, until a solver
        passes it on.
    nullspaces : those of the matrix and its transpose, if they were given.
    preconditioner_data : near-nullspace, coordinates and fields, if they were given.
    promises_hold : whether `symmetric` and `nullspaces` hold by the way in which the values are
        made, so that they need no check.

    A copy, also a deep one, is the operator itself: the values come with each solve. An operator
    cannot be pickled.
    """

    matrix: Any
    comm: MPI.Comm
    symmetric: bool
    grid: Grid | None
    nullspaces: Nullspaces | None = None
    promises_hold: bool = False
    memory: Memory = HOST
    is_read_by_derivatives = False
    takes_batches = False

    def __init__(self, comm: MPI.Comm, symmetric: bool, grid: Grid | None) -> None:
        check_scalars()
        self.comm, self.symmetric, self.grid = comm, symmetric, grid
        self.loaded = LoadedValues()
        self.failure: Exception | None = None
        self.preconditioner_data = PreconditionerData()
        self._preconditioning: PreconditioningMatrix | None = None
        self._promises: PromiseCheck | None = None

    def __copy__(self) -> Operator:
        return self

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
            self._promises = PromiseCheck(self.matrix, self.has_single_values, self.memory)
        return self._promises

    def has_single_values(self) -> bool:
        """Whether the values that were loaded last are numbers in single precision, on this
        rank.
        """
        return False

    @property
    def preconditioner(self) -> PreconditioningMatrix | None:
        """Another matrix that preconditioners are made from; None: the matrix itself.

        Set it to a pair `(operator, values)`, an operator whose rows are divided alike and its
        values, or to None; collective. Gradients do not depend on it, but by the accuracy of the
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
        """The operator that solves for tensors on a device: itself, or one of the same pattern in
        that device's memory. An operator that calls the user's code stays on the host.
        """
        return self

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
    def check_numbers(self, host: Numbers | None) -> Exception | None:
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

    def differs(self, values: Tensor | Numbers | None) -> bool:
        """Whether `values`, of the right form, are other numbers than the loaded ones, on this
        rank; a comparison number by number.
        """
        return self.loaded.differ_from(None if values is None else to_memory(values, self.memory))

    def holds(self, load: Load) -> bool:
        """Whether the matrix still holds what it held at an earlier load, on this rank."""
        return self.loaded.hold(load)

    def load(self, values: Tensor | Numbers | None) -> None:
        """Put the values into the matrix; collective. Every solver sees the change and sets up
        again.
        """
        numbers = None if values is None else to_memory(values, self.memory)
        self.loaded.replace(numbers)
        self._put(numbers)

    @contextmanager
    def holding(self, host: Numbers | None) -> Iterator[None]:
        """Other values in the matrix while the block runs, which do not count as loaded;
        collective.
        """
        self._put(host)
        try:
            yield
        finally:
            self._put(self.loaded.copy)

    @abstractmethod
    def _put(self, host: Numbers | None) -> None: ...

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
        """Give a PETSc PC what it needs of this operator: coordinates, fields of "fieldsplit", or
        one of our own.
        """
        if name in OWN_PRECONDITIONERS:
            raise _no_own(name)
        for operator in dict.fromkeys((self, self.preconditioning_operator)):
            operator.preconditioner_data.attach_to_preconditioner(pc)

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
