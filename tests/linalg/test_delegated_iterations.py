"""Richardson's method where PETSc delegates its iterations to the preconditioner."""

import pytest
import torch
from mpi4py import MPI
from systems import dominant, sparse

from prdp_hpc import Grid, Poisson, Refinement, SolveError, Solver, SparseOperator, solve

NO_TRANSPOSE = ("sor", "hmg", "telescope")
PCS = ("sor", "gamg", "hmg", "telescope", "jacobi")


def laplacian(n):
    """A matrix for which n² sweeps are too few."""
    rows = [*range(n), *range(n - 1), *range(1, n)]
    cols = [*range(n), *range(1, n), *range(n - 1)]
    values = torch.tensor([2.0] * n + [-1.0] * (2 * n - 2), dtype=torch.float64)
    return SparseOperator(rows, cols, (n, n), MPI.COMM_SELF, symmetric=True), values


@pytest.mark.parametrize("pc", PCS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_tolerance_ends_the_iterations(pc, symmetric):
    operator, values = sparse(dominant(12, symmetric=True), symmetric=symmetric)
    values.requires_grad_()
    b = torch.ones(12, dtype=torch.float64, requires_grad=True)
    solver = Solver("richardson", pc, 1e-9)
    x = solve(operator, values, b, solver)
    residual = operator.tangent_product(values, values.detach(), x.detach()[None])[0] - 1.0
    assert residual.norm() < 1e-7
    if pc in NO_TRANSPOSE and not symmetric:
        return
    x.sum().backward()
    report = solver.report
    assert max(report.forward.iterations, report.adjoint.iterations) < 200
    torch.testing.assert_close(b.grad, x.detach(), rtol=1e-7, atol=0.0)  # A = Aᵀ


def test_a_tolerance_that_is_not_reached_is_an_error():
    operator, values = laplacian(400)
    b = torch.ones(400, dtype=torch.float64)
    with pytest.raises(SolveError, match="DIVERGED_MAX_IT"):
        solve(operator, values, b, Solver("richardson", "sor", 1e-8))


@pytest.mark.parametrize("pc", ["gamg", "mg"])
def test_cycles_that_do_not_reach_the_tolerance_are_an_error(pc):
    grid = Grid((17,), "dirichlet", MPI.COMM_SELF)
    poisson = Poisson(grid, Solver("richardson", pc, 1e-16))
    poisson.solver.refine(Refinement(rtol=1e-40))
    with pytest.raises(SolveError, match="DIVERGED_MAX_IT"):
        poisson(torch.rand(1, 1, 17, dtype=torch.float64))


def test_a_level_with_both_ends_at_the_first():
    operator, values = laplacian(30)
    b = torch.ones(30, dtype=torch.float64)
    solver = Solver("richardson", "sor", Refinement(max_it=1000, rtol=0.5))
    solve(operator, values, b, solver)
    first = solver.report.forward.iterations
    assert 1 < first < 1000
    solver.refine(Refinement(max_it=5, rtol=1e-8))
    solve(operator, values, b, solver)
    assert solver.report.forward.iterations == first + 5


@pytest.mark.parametrize("options", [{}, {"ksp_monitor": "ascii:/dev/null"}])
def test_an_earlier_tolerance_does_not_change_a_fixed_number_of_iterations(options):
    operator, values = laplacian(30)
    b = torch.linspace(0.3, 2.0, 30, dtype=torch.float64)
    solver = Solver("richardson", "sor", 7, petsc_options=options)
    first = solve(operator, values, b, solver)
    solver.refine(1e-2)
    solve(operator, values, b, solver)
    solver.refine(7)
    assert torch.equal(solve(operator, values, b, solver), first)
