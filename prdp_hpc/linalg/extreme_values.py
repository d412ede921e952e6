"""Scaling of extreme values of matrices.

PETSc's methods square numbers, and compare some of them with constants. For matrices with values
beyond 1e±100 several of them return 0, or stop as if they had converged. Their iterations from zero
are homogeneous in the matrix, `x(A) = s x(s A)`, so such a matrix is multiplied by a power of two,
which changes no bit of the mantissas. A few methods need that for values below 0.1 already.

The derivatives of the scalars of an iteration are products of two or three matrices, so unrolled
solves are scaled too: their gradients underflow or overflow earlier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prdp_hpc.linalg import errors
from prdp_hpc.linalg.arrays import has_bad_numbers
from prdp_hpc.linalg.method_types import INVERSE_PCS, ONE_APPLICATION_KSPS
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.options import bare
from prdp_hpc.linalg.reductions import anywhere
from prdp_hpc.linalg.scaling import exponents_of, largest
from prdp_hpc.linalg.solve_call import SolveCall
from prdp_hpc.linalg.solver import Solver
from prdp_hpc.linalg.sparse_operator import SparseOperator
from prdp_hpc.linalg.torch_petsc import is_real_tensor, to_memory
from prdp_hpc.petsc import PETSc

ORDINARY_VALUES = 100
"""Matrices whose largest value is between 2^−100 and 2^100 are not scaled."""
SMALL_VALUES = {
    "pipefgmres": 3,
    "pipegcr": 10,
    "pipefcg": 10,
    "lsqr": 3,
    "minres": 6,
    "symmlq": 6,
}
"""Methods that compare inner products with absolute numbers, or, as `pipefgmres`, shift the
spectrum by 1: matrices whose largest value is below 2^−n are scaled for them, with this n.
"""
MOST, MOST_SINGLE = 1000, 120
"""Largest powers of two by which values in double and in lower precision are multiplied."""
USUAL = 2.0**150
"""Squared sizes of solutions, relative to that of right-hand sides, up to which the matrix is not
looked at.
"""
LARGEST_EXPONENT = 330
"""Products of three numbers between 2^−330 and 2^330 are in the range of double precision."""
_ABSOLUTE = ("atol", "shift", "zeropivot", "eigenvalues", "haptol", "scale")
"""Parts of the names of options with numbers that do not depend on the size of the matrix."""


def has_usual_size(call: SolveCall) -> bool:
    """Whether the size of a solution shows that the matrix is not extreme; equal on all ranks."""
    x, right = call.squares, call.right_squares
    if call.solver.ksp in SMALL_VALUES:
        # The values are looked at after the solve, in which the ranks have agreed on the input.
        return False
    return not call.knows_squares or right == 0.0 or right < USUAL * x < USUAL**2 * right


def is_extreme(operator: Operator, values: Any, solver: Solver) -> bool:
    """Whether the values are so extreme that they are to be scaled; collective."""
    return solver.batched is None and factor_of(operator, values, solver) != 1.0


def factor_of(operator: Operator, values: Any, solver: Solver) -> float:
    """The power of two s with which extreme values are solved; 1 for others, and for methods that
    are not homogeneous. Collective.

    Raises SolveError for other operators than `SparseOperator` with values that are too small for
    the method.
    """
    if not _is_homogeneous(operator, solver):
        return 1.0
    if type(operator) is not SparseOperator:
        _require_size(operator, solver)
        return 1.0
    if any(part in bare(name) for name in solver.petsc_options for part in _ABSOLUTE):
        return 1.0
    rows = np.zeros((1, 0))
    if is_real_tensor(values):
        rows = to_memory(values.reshape(1, -1), operator.memory)
    small = SMALL_VALUES.get(solver.ksp, ORDINARY_VALUES)
    exponents = exponents_of(operator.comm, rows, small)
    if exponents is None or 0 < exponents[0, 0] <= ORDINARY_VALUES:
        return 1.0
    most = MOST if values.dtype == torch.float64 else MOST_SINGLE
    return float(2.0 ** -np.clip(int(exponents[0, 0]), -most, most))


def _is_homogeneous(operator: Operator, solver: Solver) -> bool:
    """Whether the iterations are the same for a multiple of the matrix: those of Richardson's
    method are if its preconditioner is made from the same values.
    """
    if solver.ksp == "richardson":
        is_own = solver.adopted is None and operator.preconditioner is None
        return is_own and solver.pc in INVERSE_PCS
    return solver.ksp not in ONE_APPLICATION_KSPS


def _require_size(operator: Operator, solver: Solver) -> None:
    """Raise SolveError if the matrix of the last solve cannot be scaled, but is too small for the
    method; collective.
    """
    small, matrix = SMALL_VALUES.get(solver.ksp), operator.matrix
    if small is None or not matrix.type.endswith("aij"):
        return
    size = matrix.norm(PETSc.NormType.INFINITY)
    if 0.0 < size < 2.0**-small:
        raise errors.too_small_values(_method(solver), size)


def require_usual_size(operator: Operator, solver: Solver, b: Tensor, x: Tensor) -> None:
    """Raise SolveError if the sizes of b and x `(B, n_local)` show that the matrix of an operator
    that cannot be scaled is so extreme that products of three such numbers leave the range of
    double precision, as they occur in gradients of unrolled iterations; collective.
    """
    if type(operator) is SparseOperator:
        return
    sizes = largest(operator.comm, torch.cat([b.detach(), x]).double())
    rights, results = sizes[: len(b)], sizes[len(b) :]
    with np.errstate(all="ignore"):
        matrix = (rights / results)[(rights > 0.0) & (results > 0.0)]
    extreme = matrix[(matrix < 2.0**-LARGEST_EXPONENT) | (matrix > 2.0**LARGEST_EXPONENT)]
    if len(extreme):
        raise errors.extreme_values(_method(solver), float(extreme[0]))


def with_ordinary_values(
    solve: Callable[..., Tensor],
    operator: Operator,
    values: Tensor,
    b: Tensor,
    solver: Solver,
    guess: Tensor | None,
) -> Tensor:
    """The solve of b with extreme values, by `solve` with values of ordinary size; collective."""
    factor = factor_of(operator, values, solver)
    start = None if guess is None else guess / factor
    x = solve(operator, scaled_values(operator, values, solver, factor), b, solver, start)
    return scaled_solution(operator, x, solver, factor)


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

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        tangent: Tensor = ctx.given[0] * tangents[0]
        return tangent
