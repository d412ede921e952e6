"""Differentiable solves by PETSc's KSPs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
from prdp_hpc.linalg.held_matrices import HeldMatrices
from prdp_hpc.linalg.linear_system import LinearSystem
from prdp_hpc.linalg.memory import HOST
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.reductions import anywhere, zero_rows
from prdp_hpc.linalg.solution_sizes import Sizes, is_suspicious, judged_sizes
from prdp_hpc.linalg.solve_call import SolveCall, rows_of
from prdp_hpc.linalg.sparse_operator import SparseOperator
from prdp_hpc.linalg.torch_petsc import in_double, to_memory
from prdp_hpc.linalg.validation import bad_guess, check_and_load


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
                host = check_and_load(self.operator, values, self.sizes, self.needs, error)
                self.held = HeldMatrices(self.operator, host)
            else:
                self.held.restore(values, self.operator.is_read_by_derivatives)
            timer.change("solve_seconds")
            x = self._solved(right, guess)
        finally:
            timer.close(part)
        if first and not self.recording:
            self.held.release()
        return x

    def _solved(self, right: Tensor, guess: Tensor | None) -> Tensor:
        """The solution with the matrices that are held."""
        memory, comm = self.operator.memory, self.operator.comm
        try:
            numbers = to_memory(right, memory)
            is_one = numbers.ndim == 1 and memory is HOST and comm.size == 1
            if is_one and guess is None and self.recollection is None:
                return torch.from_numpy(self._solve_vector(numbers))
            return as_tensor(self._solve_each(numbers, self._start(guess, right)))
        except Exception:
            self.held.release()
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
        x, iterations, systems = zeros_like(right), 0, []
        is_guarded = self.recollection is not None
        rows, results = _by_matrix(right), _by_matrix(x)
        starts = [None] * len(rows) if start is None else _by_matrix(start)
        squares = [squares_of(own) for own in rows]
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
            systems[m].require_solution(direction, right[m][place], x[m][place])

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
