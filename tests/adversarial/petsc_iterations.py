"""K iterations of PETSc's KSPs on dense matrices, for the methods that `iterations` does not have.

The preconditioner is given as a dense matrix too, so that the adjoint solve is that of the
transposed matrices.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from petsc4py import PETSc

from .iterations import Iterates, Matrix

SIDES = (PETSc.PC.Side.LEFT, PETSc.PC.Side.RIGHT)
WITH_NORM = ("bicg", "tfqmr", "qmrcgs")
"""PETSc omits more than the norm in these without one."""
ESTIMATES = {"esteig_ksp_atol": 0.0, "esteig_ksp_gmres_haptol": 1e-300}
"""With PETSc's absolute numbers, matrices of extreme size have no estimates of their spectrum."""
_prefixes = (f"reference{number}_" for number in itertools.count())


def maps(ksp: str, options: dict[str, Any]) -> list[Callable[..., Iterates]]:
    """The maps `(A, M, b, K) -> [x_{K-1}, x_K]` from either side; NaN where PETSc refuses one."""
    own = {key: value for key, value in options.items() if key.startswith("ksp_")}
    own.pop("ksp_pc_side", None)
    if ksp == "chebyshev":
        own |= ESTIMATES
    return [lambda A, M, b, K, side=side: _last_two(ksp, own, side, A, M, b, K) for side in SIDES]


def transposed(steps: Callable[..., Iterates]) -> Callable[..., Iterates]:
    """The transpose of the linear map of K iterations with the transposed matrices."""

    def of_columns(A: Matrix, M: Matrix, b: Any, K: int) -> Iterates:
        columns = [steps(A.T, M.T, unit, K) for unit in np.eye(len(b))]
        return [np.array([x @ b for x in each]) for each in zip(*columns, strict=True)]

    return of_columns


def _last_two(
    ksp: str, options: dict[str, Any], side: Any, A: Matrix, M: Matrix, b: Any, K: int
) -> Iterates:
    matrices = [_matrix(numbers) for numbers in (A, M)]
    solver = PETSc.KSP().create(comm=PETSc.COMM_SELF)
    prefix, database = next(_prefixes), PETSc.Options()
    solver.setOptionsPrefix(prefix)
    solver.setOperators(*matrices)
    solver.getPC().setType(PETSc.PC.Type.MAT)
    solver.setTolerances(rtol=0.0, atol=0.0, divtol=1e150)
    found: Iterates = []
    try:
        for key, value in options.items():
            database.setValue(prefix + key, value)
        solver.setType(ksp)
        solver.setFromOptions()
        solver.setPCSide(side)
        if ksp not in WITH_NORM:
            solver.setNormType(PETSc.KSP.NormType.NONE)
            solver.setConvergenceTest(None)
        for count in (K - 1, K):
            found.append(_solution(solver, b, count) if count else np.zeros_like(b))
    except PETSc.Error as error:
        raise np.linalg.LinAlgError(ksp) from error
    finally:
        for key in options:
            database.delValue(prefix + key)
        for thing in (solver, *matrices):
            thing.destroy()
    return found


def _solution(solver: Any, b: Any, count: int) -> Any:
    solver.setTolerances(max_it=count)
    right, x = (PETSc.Vec().createWithArray(np.array(y), comm=PETSc.COMM_SELF) for y in (b, 0 * b))
    solver.solve(right, x)
    found = x.getArray().copy()
    for vector in (right, x):
        vector.destroy()
    if solver.getConvergedReason() < 0 and solver.getIterationNumber() < count:
        raise np.linalg.LinAlgError(str(solver.getConvergedReason()))
    return found


def _matrix(numbers: Any) -> Any:
    return PETSc.Mat().createDense(numbers.shape, array=numbers, comm=PETSc.COMM_SELF)
