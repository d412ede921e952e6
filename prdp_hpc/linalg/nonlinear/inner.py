"""One linear solve with a Jacobian, and its failures in words."""

from __future__ import annotations

import numpy as np

from prdp_hpc.linalg import errors
from prdp_hpc.linalg.operator import Operator
from prdp_hpc.linalg.reductions import anywhere
from prdp_hpc.linalg.refinement_level import Refinement
from prdp_hpc.linalg.residual_checks import zero_rows
from prdp_hpc.linalg.solver import Solver
from prdp_hpc.linalg.torch_petsc import Array, has_bad_numbers


def linear_solve(
    operator: Operator, solver: Solver, direction: str, right: Array, level: Refinement
) -> Array:
    """`J⁻¹ b` ("forward") or `J⁻ᵀ b` ("adjoint") for one right-hand side `(n_local,)`; collective.

    Raises
    ------
    SolveError
        On all ranks, as a `Solver` does, and for NaN on either side.
    """
    method = f"ksp={solver.ksp!r}, pc={solver.pc!r}"
    result = np.zeros_like(right)
    if anywhere(operator.comm, has_bad_numbers(right)):
        raise errors.bad_numbers(direction, method, 0, level, in_input=True)
    if zero_rows(operator.comm, right[np.newaxis])[0]:
        return result
    system = solver.system(operator)
    system.set_up(direction)
    iterations = system.solve(direction, right[np.newaxis], result[np.newaxis], level)
    if anywhere(operator.comm, has_bad_numbers(result)):
        raise errors.bad_numbers(direction, method, iterations, level, in_input=False)
    return result
