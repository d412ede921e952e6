"""The arguments of one differentiable solve, for each engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from torch import Tensor

from prdp_hpc.autograd.batched_functions import is_transformed
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.initial_guesses import Recollection
from prdp_hpc.linalg.method_types import ONE_APPLICATION_KSPS
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.proportional_guess import proportional_guess
from prdp_hpc.linalg.refinement_level import Refinement
from prdp_hpc.linalg.solver import Solver


@dataclass
class SolveCall(ABC):
    """The arguments of a solve besides its tensors.

    Attributes
    ----------
    levels : the levels of solves with A (False) and with Aᵀ (True).
    sizes, needs : values that must be equal on all ranks.
    recording : whether derivatives may be computed later.
    transposed : whether to solve with Aᵀ.
    held : the matrices, once they are loaded; in a derivative those of the solve itself.
    recollection : where this solve and its adjoint start, and store their solutions.
    is_derivative : whether this is a derivative of another solve.
    squares : the sum of the squares of the solution on all ranks, once it is computed.
    right_squares : the same of the right-hand side.
    knows_squares : whether the engine computes them.
    finds_multiples : whether the engine compares right-hand sides, for `adjoint_guess`.
    """

    operator: Operator
    solver: Solver
    levels: dict[bool, Refinement]
    sizes: tuple[int, int]
    needs: tuple[bool, ...]
    recording: bool
    # Set later where they differ, because each argument takes longer than a small operation.
    transposed: bool = field(init=False, default=False)
    held: Any = field(init=False, default=None)
    recollection: Recollection | None = field(init=False, default=None)
    is_derivative: bool = field(init=False, default=False)
    squares: float = field(init=False, default=0.0)
    right_squares: float = field(init=False, default=0.0)
    knows_squares: ClassVar[bool] = True
    finds_multiples: ClassVar[bool] = True

    @property
    def direction(self) -> str:
        """The direction in reports and messages."""
        return "adjoint" if self.transposed else "forward"

    @property
    def level(self) -> Refinement:
        """The level of this solve."""
        return self.levels[self.transposed]

    @property
    def method(self) -> str:
        """Names of KSP and PC, for messages."""
        return f"ksp={self.solver.ksp!r}, pc={self.solver.pc!r}"

    def changed(self, **arguments: Any) -> Self:
        """A copy with some other arguments; `dataclasses.replace` takes ten times as long."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, **arguments)
        return copy

    @abstractmethod
    def working(self, tensor: Tensor) -> Tensor:
        """A tensor in the memory and precision of the solve; differentiable."""

    def kept_right(self, b: Tensor) -> Tensor | None:
        """The right-hand side, if the adjoint solve may start at a multiple of the solution: with
        a symmetric matrix, and a tolerance without a number of iterations.
        """
        level = self.levels[not self.transposed]
        tests = level.rtol is not None and level.max_it is None
        is_one_matrix = self.operator.symmetric and self.solver.ksp not in ONE_APPLICATION_KSPS
        applies = self.finds_multiples and tests and is_one_matrix and not is_transformed(b)
        return b.detach() if applies else None

    def adjoint_guess(self, right: Tensor, kept: Tensor | None, x: Tensor) -> Tensor | None:
        """Where the adjoint solve starts: at the multiple of the solution x for the right-hand side
        that was kept if `right` is that multiple, else at zero (None); collective.
        """
        if kept is None or is_transformed(right):
            return None
        return proportional_guess(self.operator.comm, right.detach(), kept, x.detach())

    @abstractmethod
    def solve(self, values: Any, right: Tensor, guess: Tensor | None) -> Tensor:
        """The solution, without gradients; collective. b, the guess and x are `(n_local,)` or
        `(B, n_local)`, or `(M, R, n_local)` for M matrices.
        """

    @abstractmethod
    def release(self) -> None:
        """Release the matrices; a later derivative acquires them again."""

    @abstractmethod
    def values_gradient(self, values: Any, adjoint: Tensor, solution: Tensor) -> Tensor:
        """See `Operator.values_gradient`; adjoint and solution have the shapes of `solve`."""

    @abstractmethod
    def tangent_product(self, values: Any, tangent: Tensor, x: Tensor) -> Tensor:
        """See `Operator.tangent_product`; in this solve's direction, for x as in `solve`."""


def rows_of(vectors: Tensor) -> Tensor:
    """`(1, n_local)` of `(n_local,)`, other shapes unchanged; a view."""
    return vectors if vectors.dim() > 1 else vectors.unsqueeze(0)


def check_kinds(operator: Any, solver: Any) -> None:
    """Raise an InputError unless there is an operator and a solver; not collective."""
    if not isinstance(operator, Operator):
        raise InputError(
            f"operator must be a SparseOperator or another operator, not a "
            f"{type(operator).__name__}: make one, e.g. by SparseOperator.from_scipy(matrix)"
        )
    if not isinstance(solver, Solver):
        raise InputError(
            f"solver must be a Solver, e.g. Solver('cg', 'jacobi'), not a {type(solver).__name__}"
        )
