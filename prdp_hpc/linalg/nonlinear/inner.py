"""One linear solve with a Jacobian, and its errors."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from prdp_hpc.distributed.communicators import private
from prdp_hpc.linalg import errors
from prdp_hpc.linalg.arrays import has_bad_numbers, squares_of
from prdp_hpc.linalg.extreme_values import factor_for_size
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.reductions import anywhere
from prdp_hpc.linalg.refinement_level import Refinement
from prdp_hpc.linalg.solution_sizes import judged_sizes
from prdp_hpc.linalg.solver import Solver
from prdp_hpc.linalg.torch_petsc import Array


def linear_solve(
    operator: Operator, solver: Solver, direction: str, right: Array, level: Refinement
) -> Array:
    """`J⁻¹ b` ("forward") or `J⁻ᵀ b` ("adjoint") for one right-hand side `(n_local,)`; collective.

    Raises
    ------
    SolveError
        On all ranks, as a `Solver` does, for NaN on either side, and for a Jacobian that is too
        small for the method.
    """
    method = f"ksp={solver.ksp!r}, pc={solver.pc!r}"
    bad, nonzero = _kind_of(operator, right)
    if bad:
        raise errors.bad_numbers(direction, method, 0, level, in_input=True)
    if not nonzero:
        return np.zeros_like(right)
    factor = factor_for_size(operator, solver)
    if factor != 1.0:
        operator.matrix.scale(factor)
        right = factor * right
    try:
        return _solved(operator, solver, direction, right, level)
    except errors.SolveError:
        solver.replace_systems([operator])
        raise
    finally:
        if factor != 1.0:
            operator.matrix.scale(1.0 / factor)


def _solved(
    operator: Operator, solver: Solver, direction: str, right: Array, level: Refinement
) -> Array:
    """The solution for a right-hand side that is not 0, with a matrix of ordinary size."""
    method, result = f"ksp={solver.ksp!r}, pc={solver.pc!r}", np.zeros_like(right)
    system = solver.system(operator)
    system.set_level(direction, level)
    system.set_up(direction)
    rows, results = right[np.newaxis], result[np.newaxis]
    with solver.report.part(direction, "solve"):
        iterations = system.solve(direction, rows, results)
    if anywhere(operator.comm, has_bad_numbers(result)):
        raise errors.bad_numbers(direction, method, iterations, level, in_input=False)
    if level.rtol is not None:
        scale = system.scale()
        if judged_sizes(operator.comm, [scale], [squares_of(rows)], [results]).suspicious:
            system.require_solution(direction, rows, results, 0)
    return result


def _kind_of(operator: Operator, right: Array) -> tuple[bool, bool]:
    """Whether a right-hand side has NaN or infinity, and whether it has a non-zero number;
    collective.
    """
    flags = np.array([has_bad_numbers(right), bool(np.any(right))])
    if operator.comm.size > 1:
        private(operator.comm).sums.Allreduce(MPI.IN_PLACE, flags, op=MPI.LOR)
    return bool(flags[0]), bool(flags[1])
