"""Property: with fields for "fieldsplit" forward and adjoint solves converge to the dense solution,
on any number of ranks, for every way to combine the fields.
"""

import numpy as np
import pytest
import torch
from assembled import assembled, fill
from mpi4py import MPI
from systems import dominant, exact

from prdp_hpc import AssembledOperator, Solver, SparseOperator, solve

WORLD = MPI.COMM_WORLD
N = 24
EACH = {f"fieldsplit_{name}_{key}": value for name in ("velocity", "pressure")
        for key, value in (("ksp_type", "preonly"), ("pc_type", "jacobi"))}  # fmt: skip
WAYS = [
    {"pc_fieldsplit_type": "additive"},
    {"pc_fieldsplit_type": "multiplicative"},
    {"pc_fieldsplit_type": "symmetric_multiplicative"},
    {"pc_fieldsplit_type": "schur", "pc_fieldsplit_schur_fact_type": "full",
     "pc_fieldsplit_schur_precondition": "a11"},
]  # fmt: skip


def fields_of(start, end):
    """Every third row is a pressure."""
    rows = np.arange(start, end)
    return {"velocity": rows[rows % 3 > 0][::-1], "pressure": rows[rows % 3 == 0]}


def check_each_way(comm):
    matrix = dominant(N, density=1.0, seed=2)
    whole, grad = torch.randn(
        2, 2, N, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    theirs = assembled(matrix.numpy(), comm)
    own = slice(*theirs.getOwnershipRange())
    fields = fields_of(own.start, own.stop)
    operators = [
        SparseOperator.from_petsc(theirs, fields=fields),
        (AssembledOperator(theirs, lambda _, m: fill(m, matrix.numpy()), fields=fields), None),
    ]
    for operator, values in operators:
        for way in WAYS:
            b = whole[:, own].clone().requires_grad_()
            solver = Solver("gmres", "fieldsplit", 1e-12, petsc_options={**EACH, **way})
            x = solve(operator, values, b, solver)
            x.backward(grad[:, own])
            solution, adjoint, _ = exact(matrix, whole, grad)
            torch.testing.assert_close(x.detach(), solution[:, own], rtol=1e-8, atol=1e-9)
            torch.testing.assert_close(b.grad, adjoint[:, own], rtol=1e-8, atol=1e-9)
            # The adjoint's preconditioner is the transpose of the forward one, not a worse one.
            counts = solver.report
            assert counts.adjoint.iterations <= 1.5 * counts.forward.iterations + 4


def check_that_fields_are_those(comm):
    """Exact solves of two uncoupled fields are the solution."""
    matrix = dominant(N, density=1.0, seed=2)
    pressure = torch.arange(N) % 3 == 0
    matrix = matrix * (pressure[:, None] == pressure[None, :])
    theirs = assembled(matrix.numpy(), comm)
    start, end = theirs.getOwnershipRange()
    operator, values = SparseOperator.from_petsc(theirs, fields=fields_of(start, end))
    exactly = {key: "redundant" if value == "jacobi" else value for key, value in EACH.items()}
    exactly["pc_fieldsplit_type"] = "additive"
    solver = Solver("gmres", "fieldsplit", 1e-10, petsc_options=exactly)
    b = torch.ones(end - start, dtype=torch.float64, requires_grad=True)
    solve(operator, values, b, solver).sum().backward()
    assert (solver.report.forward.iterations, solver.report.adjoint.iterations) == (1, 1)


CHECKS = [check_each_way, check_that_fields_are_those]


@pytest.mark.parametrize("check", CHECKS)
def test_on_one_rank(check):
    check(MPI.COMM_SELF)


@pytest.mark.long_on(2, 4)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_the_same_on_several_ranks():
    for check in CHECKS:
        check(WORLD)
