"""Scaling of extreme values and right-hand sides in unrolled solves, see `prdp_hpc.linalg.scaling`.

Derivatives of the scalars of an iteration are products of two or three matrices, so those of values
beyond 1e±100 underflow or overflow, though the gradient itself does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.linalg import errors
from prdp_hpc.linalg.arrays import has_bad_numbers, times_power_of_two
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.options import bare
from prdp_hpc.linalg.reductions import anywhere
from prdp_hpc.linalg.scaling import ORDINARY, exponents_of, largest
from prdp_hpc.linalg.solver import Solver
from prdp_hpc.linalg.sparse_operator import SparseOperator
from prdp_hpc.linalg.torch_petsc import is_real_tensor, to_memory

Backward = Callable[[Tensor, Tensor | None, Tensor | None], tuple[Tensor | None, Tensor]]


ORDINARY_VALUES = 100
"""Matrices whose largest value is between 2^−100 and 2^100 are not scaled."""
NEGLIGIBLE = 400
"""A row whose cotangent is 2^−400 of the dominant one does not change the gradient of the values."""
MOST, MOST_SINGLE = 1000, 120
"""Largest powers of two by which values in double and in lower precision are multiplied."""


def factor_of(operator: Operator, values: Any, solver: Solver) -> float:
    """The power of two s with which extreme values are solved: `x(A) = s x(s A)` for the iterations
    of a Krylov method from zero. 1 for others; collective.
    """
    is_homogeneous = solver.ksp != "richardson" and type(operator) is SparseOperator
    if not is_homogeneous or "ksp_atol" in map(bare, solver.petsc_options):
        return 1.0
    rows = np.zeros((1, 0))
    if is_real_tensor(values):
        rows = to_memory(values.reshape(1, -1), operator.memory)
    exponents = exponents_of(operator.comm, rows, ORDINARY_VALUES)
    if exponents is None:
        return 1.0
    most = MOST if values.dtype == torch.float64 else MOST_SINGLE
    return float(2.0 ** -np.clip(int(exponents[0, 0]), -most, most))


def scaled_values(operator: Operator, values: Tensor, solver: Solver, factor: float) -> Tensor:
    """The values times the factor; the backward pass raises SolveError if their gradient overflows,
    on all ranks.
    """
    scaled: Tensor = _ScaledValues.apply(values, factor, operator, solver)  # type: ignore[no-untyped-call]
    return scaled


def scaled_solution(operator: Operator, x: Tensor, solver: Solver, factor: float) -> Tensor:
    """The solution for the original values; SolveError on all ranks if it overflows."""
    scaled = factor * x
    if anywhere(operator.comm, has_bad_numbers(scaled.detach())):
        raise errors.bad_numbers("forward", _method(solver), 0, solver.refinement, in_input=False)
    return scaled


def _method(solver: Solver) -> str:
    return f"ksp={solver.ksp!r}, pc={solver.pc!r}"


class _ScaledValues(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, factor: float, operator: Operator, solver: Solver
    ) -> Tensor:
        ctx.given = factor, operator, solver
        return factor * values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        factor, operator, solver = ctx.given
        grad = factor * grads[0]
        if anywhere(operator.comm, has_bad_numbers(grad)):
            raise errors.too_large_gradient(_method(solver), solver.adjoint)
        return grad, None, None, None


class Scaling:
    """The powers of two that the rows of a batch `(B, n_local)` are divided by; collective.

    Without rows, nothing is scaled.
    """

    def __init__(self, comm: MPI.Comm | None = None, rows: Tensor | None = None) -> None:
        self._comm = comm
        self._exponents = None if comm is None or rows is None else exponents_of(comm, rows)

    def scaled(self, rows: Tensor) -> Tensor:
        """Right-hand sides divided by their powers of two."""
        return self._times(rows, -1)

    def unscaled(self, rows: Tensor) -> Tensor:
        """Solutions of the original right-hand sides."""
        return self._times(rows, 1)

    def backward(
        self, function: Backward, grad: Tensor, values: Tensor | None, b: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        """The gradients of values and b, from `function` for scaled right-hand sides b.

        The gradient of b does not depend on the size of b, because x is homogeneous in b; the
        gradient of the values is proportional to it, and summed over the rows. Therefore the
        cotangents are scaled relative to the dominant row, and both gradients are scaled back.
        """
        if self._comm is None or len(grad) == 0:
            return function(grad, values, b)
        sizes = np.frexp(largest(self._comm, grad))[1].astype(np.int32)[:, None]
        own = np.zeros_like(sizes) if self._exponents is None else self._exponents
        if self._exponents is None and (np.abs(sizes) <= ORDINARY).all():
            return function(grad, values, b)
        most = (sizes + own).max(axis=0)
        # Not below the range, where the gradient of b for a small row would lose its digits.
        shift = np.maximum(own - most, -NEGLIGIBLE - sizes)
        scaled = times_power_of_two(grad, shift)
        values_grad, b_grad = function(scaled, values, b)
        if values_grad is not None:
            values_grad = times_power_of_two(values_grad, most)
        return values_grad, times_power_of_two(b_grad, shift, -1)

    def _times(self, rows: Tensor, sign: int) -> Tensor:
        if self._exponents is None:
            return rows
        scaled: Tensor = times_power_of_two(rows, self._exponents, sign)
        return scaled
