"""Scaling of extreme values of matrices.

PETSc's methods square numbers, and compare some of them with constants. For matrices with values
beyond 1e±100 several of them return 0, or stop as if they had converged. Their iterations from zero
are homogeneous in the matrix, `x(A) = s x(s A)`, so such a matrix is multiplied by a power of two,
which changes no bit of the mantissas. A few methods need that for values below 0.1 already, and
most preconditioners compare pivots, or lengths of vectors, with constants. Each matrix of a batch
has a separate factor.

The derivatives of the scalars of an iteration are products of two or three matrices, so unrolled
solves are scaled too: their gradients underflow or overflow earlier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prdp_hpc.linalg import errors
from prdp_hpc.linalg.arrays import has_bad_numbers
from prdp_hpc.linalg.function_operator import FunctionOperator
from prdp_hpc.linalg.method_types import (
    INVERSE_PCS,
    ONE_APPLICATION_KSPS,
    SHIFTING_PCS,
    SIZELESS_PCS,
    WITHOUT_PRODUCTS,
)
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.options import bare, has_part
from prdp_hpc.linalg.reductions import anywhere
from prdp_hpc.linalg.scaling import exponents_of, largest
from prdp_hpc.linalg.solver import Solver
from prdp_hpc.linalg.sparse_operator import SparseOperator
from prdp_hpc.linalg.torch_petsc import is_real_tensor, to_memory

if TYPE_CHECKING:
    from prdp_hpc.linalg.solve_call import SolveCall

Factors = NDArray[np.float64]
"""The powers of two of the matrices of a solve, `(M,)`."""

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
LARGE_VALUES = {"pipefgmres": 3}
"""The same for values above 2^n, whose shifted spectrum consists of rounding; they are scaled only
after a failure, or where solutions are extreme.
"""
SMALL_FOR_PCS, SMALL_FOR_SVD = 20, 0
"""The same n for preconditioners, which compare pivots with 2e-14, and for a singular value
decomposition inside of another preconditioner, which replaces singular values below 1e-12 by 0.
"""
SHIFTED = 36
"""The same n below which preconditioners that shift pivots are refused if the matrix cannot be
scaled.
"""
MOST, MOST_SINGLE = 1000, 120
"""Largest powers of two by which values in double and in lower precision are multiplied."""
USUAL = 2.0**150
"""Squared sizes of solutions, relative to that of right-hand sides, up to which the matrix is not
looked at.
"""
LARGEST_EXPONENT = 330
"""Products of three numbers between 2^−330 and 2^330 are in the range of double precision."""
SQUARED_EXPONENT = 480
"""Inner products of numbers of size 2^−480 to 2^480 keep their digits."""
_ABSOLUTE = ("atol", "shift", "zeropivot", "eigenvalues", "haptol", "scale")
"""Parts of the names of options with numbers that do not depend on the size of the matrix."""


def has_usual_size(call: SolveCall) -> bool:
    """Whether the size of a solution shows that the matrix is not extreme; equal on all ranks."""
    x, right = call.squares, call.right_squares
    return not call.knows_squares or right == 0.0 or right < USUAL * x < USUAL**2 * right


def are_extreme(operator: Operator, values: Any, solver: Solver) -> bool:
    """Whether the values are so extreme that they are to be scaled; collective."""
    return solver.batched is None and factors_of(operator, values, solver) is not None


def check_size(
    operator: Operator,
    matrices: Sequence[Operator],
    values: Any,
    solver: Solver,
    can_scale: Callable[[], bool],
) -> None:
    """Raise SolveError for loaded matrices that are too small for the method, and are to be scaled
    therefore if they can be; collective. `matrices`: the operator, or those of a batch.
    """
    small = _small_exponent(operator, solver)
    if small >= ORDINARY_VALUES:
        return
    # The norm is not smaller than the largest value; it is computed once for each change.
    sizes = [_size_of(one) for one in matrices]
    below = [size for size in sizes if 0.0 < size < 2.0**-small]
    if not below:
        return
    is_sparse = type(operator) is SparseOperator
    if not is_sparse or (can_scale() and factors_of(operator, values, solver) is not None):
        raise errors.too_small_values(_method(solver), below[0])


def _size_of(operator: Operator) -> float:
    """The norm of the matrix, or the size of a product where it has no entries; collective."""
    return operator.promises.size() if type(operator) is FunctionOperator else operator.norm()


def require_size_in_range(call: SolveCall) -> None:
    """Raise SolveError after a solve whose solution shows that the matrix may be extreme, if it is,
    and cannot be scaled: inner products of numbers of its size leave the range of double precision,
    so that methods return other numbers than their iterates; collective.
    """
    operator, solver = call.operator, call.solver
    if type(operator) is SparseOperator or solver.ksp in WITHOUT_PRODUCTS:
        return
    size = _size_of(operator)
    if size > 0.0 and not 2.0**-SQUARED_EXPONENT <= size <= 2.0**SQUARED_EXPONENT:
        raise errors.size_out_of_range(_method(solver), size)


def check_size_before_load(
    operator: Operator, values: Any, solver: Solver, can_scale: Callable[[], bool]
) -> None:
    """Raise SolveError for values that are to be scaled, if earlier ones of the operator were;
    collective. If they were loaded first, the set-up for the scaled ones would be discarded in each
    solve.
    """
    if operator.is_scaled and can_scale() and factors_of(operator, values, solver) is not None:
        raise errors.too_small_values(_method(solver), float(values.detach().abs().max()))


def factor_for_size(operator: Operator, solver: Solver) -> float:
    """The power of two with which a loaded matrix has an ordinary size for the method, 1 for most;
    collective. SolveError for one that is too small and cannot be multiplied.
    """
    size = operator.norm()
    if size == 0.0 or size >= 2.0 ** -_small_exponent(operator, solver):
        return 1.0
    if type(operator) is not SparseOperator:
        raise errors.too_small_values(_method(solver), size)
    if _has_absolute_numbers(solver) or not _is_homogeneous(operator, solver):
        return 1.0
    _require_one_size(solver, size)
    return 2.0 ** -min(max(math.frexp(size)[1], -MOST), 0)


def _require_one_size(solver: Solver, size: float) -> None:
    """Raise SolveError for a matrix that is to be scaled, if iterations with a preconditioner of
    other values depend on the factor.
    """
    if solver.lag_preconditioner not in (None, 1) and solver.ksp in WITHOUT_PRODUCTS:
        raise errors.extreme_values_with_a_lag(_method(solver), size)


def _has_absolute_numbers(solver: Solver) -> bool:
    # The factor of an iteration with M⁻¹ A does not depend on the size of A.
    names = {bare(name) for name in solver.petsc_options} - {"ksp_richardson_scale"}
    return any(part in name for name in names for part in _ABSOLUTE)


def factors_of(operator: Operator, values: Any, solver: Solver) -> Factors | None:
    """The powers of two s with which extreme values are solved; None if all are 1, as for methods
    that are not homogeneous, and for other operators than `SparseOperator`. Collective.
    """
    is_sparse = type(operator) is SparseOperator
    if not is_sparse or not is_real_tensor(values) or not _is_homogeneous(operator, solver):
        return None
    if _has_absolute_numbers(solver):
        return None
    rows = to_memory(values if values.dim() > 1 else values[None], operator.memory)
    exponents = exponents_of(operator.comm, rows, _small_exponent(operator, solver))
    if exponents is None:
        return None
    powers = exponents[:, 0]
    large = LARGE_VALUES.get(solver.ksp, ORDINARY_VALUES)
    powers[(powers > 0) & (powers <= large)] = 0
    if powers.any() and _replaces_zeros(operator, rows, solver):
        return None
    most = MOST if values.dtype == torch.float64 else MOST_SINGLE
    if not powers.any():
        return None
    _require_one_size(solver, float(np.exp2(min(int(powers[0]), 1023))))
    return 2.0 ** -np.clip(powers.astype(np.float64), -most, most)


def _small_exponent(operator: Operator, solver: Solver) -> int:
    """The n for which matrices whose largest value is below 2^−n are too small for a method."""
    by_ksp = SMALL_VALUES.get(solver.ksp, ORDINARY_VALUES)
    if type(operator) is not SparseOperator:
        return min(by_ksp, SHIFTED if solver.pc in SHIFTING_PCS else ORDINARY_VALUES)
    if solver.pc in SIZELESS_PCS or solver.shell is not None or operator.preconditioner is not None:
        return by_ksp
    if has_part(solver.petsc_options, "svd"):
        return min(by_ksp, SMALL_FOR_SVD)
    # Parts without a preconditioner depend on the size of the matrix.
    return by_ksp if has_part(solver.petsc_options, "none") else min(by_ksp, SMALL_FOR_PCS)


def _is_homogeneous(operator: Operator, solver: Solver) -> bool:
    """Whether the iterations are the same for a multiple of the matrix: those of methods without
    inner products are if the preconditioner is made from the same values.
    """
    if solver.ksp == "richardson" or solver.ksp in ONE_APPLICATION_KSPS:
        is_own = solver.adopted is None and operator.preconditioner is None
        return is_own and solver.pc in INVERSE_PCS
    return True


def _replaces_zeros(operator: Operator, rows: Any, solver: Solver) -> bool:
    """Whether the preconditioner has the number 1 for a zero on the diagonal of one of the
    matrices, and the iterations are those of a multiple of the matrix only without it; collective.
    """
    if solver.ksp != "richardson" and solver.ksp not in ONE_APPLICATION_KSPS:
        return False
    if solver.pc != "jacobi" and not has_part(solver.petsc_options, "jacobi"):
        return False
    values = torch.as_tensor(rows).detach()
    zeros = [bool((operator.diagonal_of(row) == 0.0).any()) for row in values]
    return anywhere(operator.comm, any(zeros))


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
    factors = factors_of(operator, values, solver)
    assert factors is not None
    operator.is_scaled = True
    start = None if guess is None else _multiplied(1.0 / factors, guess)
    x = solve(operator, scaled_values(operator, values, solver, factors), b, solver, start)
    return scaled_solution(operator, x, solver, factors)


def scaled_values(operator: Operator, values: Tensor, solver: Solver, factors: Factors) -> Tensor:
    """The values times the factors; the backward pass raises SolveError if their gradient
    overflows, on all ranks.
    """
    scaled: Tensor = _ScaledValues.apply(values, factors, operator, solver)  # type: ignore[no-untyped-call]
    return scaled


def scaled_solution(operator: Operator, x: Tensor, solver: Solver, factors: Factors) -> Tensor:
    """The solution for the original values; SolveError on all ranks if it overflows."""
    scaled = _multiplied(factors, x)
    if anywhere(operator.comm, has_bad_numbers(scaled.detach())):
        raise errors.bad_numbers("forward", _method(solver), 0, solver.refinement, in_input=False)
    return scaled


def _multiplied(factors: Factors, rows: Tensor) -> Tensor:
    """Rows of numbers times the factors of their matrices; differentiable."""
    if len(factors) == 1:
        return float(factors[0]) * rows
    # In double precision: other types may not have these powers of two.
    each = torch.from_numpy(factors).to(rows.device)
    each = each.repeat_interleave(len(rows) // len(factors))[:, None]
    return (each * rows.double()).to(rows.dtype)


def _method(solver: Solver) -> str:
    return f"ksp={solver.ksp!r}, pc={solver.pc!r}"


class _ScaledValues(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, factors: Factors, operator: Operator, solver: Solver
    ) -> Tensor:
        ctx.given = factors, operator, solver
        return _multiplied(factors, values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        factors, operator, solver = ctx.given
        grad = _multiplied(factors, grads[0])
        if anywhere(operator.comm, has_bad_numbers(grad)):
            raise errors.too_large_gradient(_method(solver), solver.adjoint)
        return grad, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _multiplied(ctx.given[0], tangents[0])
