"""One differentiable solve: its arguments for any engine, and the solve by PETSc's KSPs."""

from __future__ import annotations

import functools
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, ParamSpec, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.autograd.batched_functions import is_transformed
from prdp_hpc.autograd.compiled import is_compiling, not_compiled
from prdp_hpc.linalg import errors
from prdp_hpc.linalg.arrays import (
    Numbers,
    as_tensor,
    copied,
    has_bad_numbers,
    set_rows,
    squares_of,
    zeros_like,
)
from prdp_hpc.linalg.extreme_values import check_size, check_size_before_load
from prdp_hpc.linalg.held_matrices import HeldMatrices
from prdp_hpc.linalg.initial_guesses import Recollection
from prdp_hpc.linalg.linear_system import LinearSystem
from prdp_hpc.linalg.method_types import ONE_APPLICATION_KSPS
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.proportional_guess import proportional_guess
from prdp_hpc.linalg.reductions import anywhere, zero_rows
from prdp_hpc.linalg.refinement_level import Refinement
from prdp_hpc.linalg.solution_sizes import Sizes, is_suspicious, judged_sizes
from prdp_hpc.linalg.solver import Solver
from prdp_hpc.linalg.sparse_operator import SparseOperator
from prdp_hpc.linalg.torch_petsc import HOST, in_double, to_memory
from prdp_hpc.linalg.validation import bad_guess, check_and_load


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
    can_scale : returns whether values that are too small for the method are solved again,
        multiplied by a power of two. A function, since hardly any solve needs to know.
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
    can_scale: Callable[[], bool] = field(init=False, default=lambda: False)
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


P = ParamSpec("P")
R = TypeVar("R")

# Re-entrant, because functions of the user that a solve calls may solve themselves.
_LOCK = threading.RLock()


def one_at_a_time(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function in one thread of this rank at a time, with all others of this kind, and
    without `torch.compile`.
    """

    @functools.wraps(function)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        if is_compiling():
            return uncompiled(*args, **kwargs)
        with _LOCK:
            return function(*args, **kwargs)

    uncompiled = not_compiled(locked)
    return locked


@dataclass
class KspCall(SolveCall):
    """A solve by PETSc's KSPs."""

    def working(self, tensor: Tensor) -> Tensor:
        """See `SolveCall`."""
        return in_double(tensor, self.operator.memory.device)

    def values_gradient(self, values: Any, adjoint: Tensor, solution: Tensor) -> Tensor:
        """See `SolveCall`."""
        if isinstance(self.operator, SparseOperator):
            return self.operator.values_gradient(values, adjoint, solution)
        return self.operator.values_gradient(values, rows_of(adjoint), rows_of(solution))

    def tangent_product(self, values: Any, tangent: Tensor, x: Tensor) -> Tensor:
        """See `SolveCall`."""
        product = self.operator.tangent_product(values, tangent, rows_of(x), self.transposed)
        return product.squeeze(0) if x.dim() == 1 else product

    def solve(self, values: Tensor | None, right: Tensor, guess: Tensor | None) -> Tensor:
        """See `SolveCall`."""
        report, first = self.solver.report, self.held is None
        timer, counters = report.timer, report.adjoint if self.transposed else report.forward
        part = timer.open(counters, "assembly_seconds")
        try:
            if first:
                error = None if guess is None else bad_guess(guess)
                host = check_and_load(
                    self.operator,
                    values,
                    self.sizes,
                    self.needs,
                    error,
                    self.solver,
                    lambda: check_size_before_load(
                        self.operator, values, self.solver, self.can_scale
                    ),
                )
                self.held = HeldMatrices(self.operator, host)
            else:
                self.held.restore(values, self.operator.is_read_by_derivatives)
            timer.change("solve_seconds")
            x = self._solved(values, right, guess)
        finally:
            timer.close(part)
        if first and not self.recording:
            self.held.release()
        return x

    def _solved(self, values: Tensor | None, right: Tensor, guess: Tensor | None) -> Tensor:
        """The solution with the matrices that are held, which belong to these values."""
        memory, comm, held = self.operator.memory, self.operator.comm, self.held
        try:
            if not self.is_derivative:
                check_size(self.operator, held.operators, values, self.solver, self.can_scale)
            numbers = to_memory(right, memory)
            is_one = numbers.ndim == 1 and memory is HOST and comm.size == 1
            if is_one and guess is None and self.recollection is None:
                return torch.from_numpy(self._solve_vector(numbers))
            return as_tensor(self._solve_each(numbers, self._start(guess, right)))
        except BaseException as error:
            if isinstance(error, errors.SolveError):
                self.solver.replace_systems(held.operators)
            held.release()
            raise

    def _start(self, guess: Tensor | None, right: Tensor) -> Numbers | None:
        """The initial guess: the stored last solution if there is one, else the given guess."""
        memory = self.operator.memory
        given = None if guess is None else to_memory(guess, memory)
        if self.recollection is None:
            return given
        start = to_memory(torch.zeros_like(right), memory) if given is None else copied(given)
        is_known = self.recollection.recall(self.direction, _rows(start))
        # On all ranks together, because a guess needs a product, which is collective.
        return start if anywhere(self.operator.comm, is_known) else given

    def release(self) -> None:
        """See `SolveCall`."""
        if self.held is not None:
            self.held.release()

    def _solve_vector(self, right: Numbers) -> Numbers:
        """As `_solve_each`, for one right-hand side on one rank from zero: with a small matrix, the
        lists and reductions of several take as long as iterations.
        """
        direction, level, square = self.direction, self.level, float(np.vdot(right, right))
        system, x = self.solver.system(self.held.operators[0]), np.zeros(right.shape)
        system.set_level(direction, level)
        system.set_up(direction)
        try:
            iterations = system.solve_vector(direction, right, x, square)
        except errors.SolveError:
            self._blame_input(right)
            raise
        self.squares, self.right_squares = float(np.vdot(x, x)), square
        is_large = level.rtol is not None and is_suspicious(system.scale(), self.squares, square)
        if is_large or not math.isfinite(self.squares + square):
            sizes = Sizes(self.squares, square, [(0, 0)] if is_large else [])
            self._check_sizes(sizes, [system], [right[None]], [x[None]], iterations)
        return x

    def _solve_each(self, right: Numbers, start: Numbers | None) -> Numbers:
        """Solve with each matrix; the results are checked together."""
        direction, level = self.direction, self.level
        is_guarded, iterations, systems = self.recollection is not None, 0, []
        rows, x = _by_matrix(right), zeros_like(right)
        squares = [squares_of(own) for own in rows]
        results = _by_matrix(x)
        starts = [None] * len(rows) if start is None else _by_matrix(start)
        matrices: list[Operator] = self.held.operators
        for m, operator in enumerate(matrices):
            system = self.solver.system(operator)
            system.set_level(direction, level)
            system.set_up(direction)
            try:
                iterations = system.solve(
                    direction, rows[m], results[m], starts[m], is_guarded, squares[m]
                )
            except errors.SolveError:
                self._blame_input(right)
                raise
            systems.append(system)
        scales = [] if level.rtol is None else [one.scale() for one in systems]
        sizes = judged_sizes(self.operator.comm, scales, squares, results)
        self.squares, self.right_squares = sizes.of_x, sizes.of_right
        self._check_sizes(sizes, systems, rows, results, iterations)
        if self.recollection is not None:
            self.recollection.keep(direction, _rows(x))
        return x

    def _check_sizes(
        self,
        sizes: Sizes,
        systems: list[LinearSystem],
        right: list[Numbers],
        x: list[Numbers],
        iterations: int,
    ) -> None:
        """Raise SolveError for NaN, infinity and solutions that are too large; right-hand sides and
        solutions `(R, n_local)` of each matrix.
        """
        comm, direction = self.operator.comm, self.direction
        if not math.isfinite(sizes.of_right):
            for rows in right:
                self._blame_input(rows)  # a preconditioner that ignores rows would hide NaN
        if not math.isfinite(sizes.of_x):
            for rows, results in zip(right, x, strict=True):
                if not anywhere(comm, has_bad_numbers(results)):
                    continue
                # Without a norm, some methods divide 0 by 0 if the right-hand side is 0.
                set_rows(results, zero_rows(comm, rows), 0.0)
                if anywhere(comm, has_bad_numbers(results)):
                    what = direction, self.method, iterations, self.level
                    raise errors.bad_numbers(*what, in_input=False)
        for m, r in sizes.suspicious:
            place = slice(r, r + 1)
            systems[m].require_solution(direction, right[m][place], x[m][place], r)

    def _blame_input(self, right: Numbers) -> None:
        """Raise an error if the right-hand side has NaN or infinity; reads all numbers."""
        if anywhere(self.operator.comm, has_bad_numbers(right)):
            raise errors.bad_numbers(self.direction, self.method, 0, self.level, in_input=True)


def _by_matrix(fields: Numbers) -> list[Numbers]:
    """`(R, n_local)` of each matrix, from `(n_local,)`, `(R, n_local)` or `(M, R, n_local)`;
    views.
    """
    if fields.ndim == 3:
        return list(fields)
    return [fields if fields.ndim == 2 else fields[None]]


def _rows(fields: Numbers) -> Numbers:
    """`(rows, n_local)` of any leading axes; a view."""
    return fields.reshape(math.prod(fields.shape[:-1]), fields.shape[-1])
