"""Property: what ends a process (Ctrl-C, sys.exit) inside a user's function that PETSc calls is
raised unchanged, not as an error of the solve, and the solver can be used afterwards.
"""

import pytest
import torch
from mpi4py import MPI

from prdp_hpc import (
    FunctionOperator,
    NonlinearSolver,
    ShellPreconditioner,
    Solver,
    SparseOperator,
    solve,
    solve_nonlinear,
)
from prdp_hpc.petsc import PETSc

SELF = MPI.COMM_SELF
VALUES = torch.tensor([2.0, 1.0, 4.0], dtype=torch.float64)
SOLUTION = torch.tensor([1.0, 2.0], dtype=torch.float64)
B = torch.tensor([4.0, 8.0], dtype=torch.float64)


def matrix():
    return SparseOperator([0, 0, 1], [0, 1, 1], (2, 2), SELF)


def product(values, x):
    return torch.stack([2.0 * x[0] + x[1], 4.0 * x[1]])


def transposed(values, x):
    return torch.stack([2.0 * x[0], x[0] + 4.0 * x[1]])


def by_function(strike):
    def struck(values, x):
        strike()
        return product(values, x)

    operator, solver = FunctionOperator(struck, 2, SELF), Solver("gmres", "none", 1e-12)
    return lambda: solve(operator, VALUES, B, solver)


def by_transposed_function(strike):
    def struck(values, x):
        strike()
        return transposed(values, x)

    operator = FunctionOperator(product, 2, SELF, apply_transpose=struck)
    solver = Solver("gmres", "none", 1e-12)

    def call():
        b = B.clone().requires_grad_()
        x = solve(operator, VALUES, b, solver)
        x.sum().backward()
        return x.detach()

    return call


def by_preconditioner(strike):
    def struck(r):
        strike()
        return r.clone()

    operator, solver = matrix(), Solver("gmres", ShellPreconditioner(struck), 1e-12)
    return lambda: solve(operator, VALUES, B, solver)


def by_monitor(strike):
    operator = matrix()

    def call():
        # A KSP that failed inside PETSc is not used again.
        ksp = PETSc.KSP().create(SELF)
        ksp.setType("gmres")
        ksp.getPC().setType("jacobi")
        ksp.setTolerances(rtol=1e-12)
        ksp.setMonitor(lambda *arguments: strike())
        return solve(operator, VALUES, B, Solver.from_ksp(ksp))

    return call


def by_residual(strike):
    calls = []

    def residual(u):
        calls.append(1)
        if len(calls) > 3:  # not at the start, which is before PETSc
            strike()
        return product(None, u) + (u - SOLUTION) ** 3 - B

    solver = NonlinearSolver(Solver("gmres", "none", 1e-14), 1e-12)
    start = torch.zeros(2, dtype=torch.float64)
    return lambda: solve_nonlinear(residual, start, (), solver, comm=SELF)


def by_jacobian(strike):
    def values(u):
        strike()
        return VALUES

    jacobian = matrix(), values
    solver, start = NonlinearSolver(Solver("preonly", "lu")), torch.zeros(2, dtype=torch.float64)
    return lambda: solve_nonlinear(
        lambda u: product(None, u) - B, start, (), solver, jacobian=jacobian, comm=SELF
    )


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(3)], ids=["Ctrl-C", "sys.exit"])
@pytest.mark.parametrize(
    "made",
    [
        by_function,
        by_transposed_function,
        by_preconditioner,
        by_monitor,
        by_residual,
        by_jacobian,
    ],
)
def test_the_end_of_a_process_is_no_error_of_a_solve(made, end):
    strikes = [end]

    def strike():
        if strikes:
            raise strikes.pop()

    call = made(strike)
    with pytest.raises(type(end)) as raised:
        call()
    assert raised.value is end
    torch.testing.assert_close(call(), SOLUTION)
