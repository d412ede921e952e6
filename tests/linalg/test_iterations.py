"""Property: a level of K iterations does exactly K, forward and in the adjoint."""

import contextlib

import numpy as np
import pytest
import torch
from mpi4py import MPI
from systems import dominant, sparse

from prdp_hpc import FunctionOperator, Refinement, SolveError, Solver, solve
from prdp_hpc.errors import InputError
from prdp_hpc.linalg.method_types import PIPELINED_KSPS, SYMMETRIC_KSPS

# K stays below the number of unknowns: a Krylov method that has the solution has nothing left to
# do.
FIXED = [
    "richardson",
    "cg",
    "gmres",
    "fgmres",
    "lgmres",
    "bcgs",
    "bicg",
    "cgs",
    "tfqmr",
    "cr",
    "gcr",
]
FIXED += ["minres", "chebyshev", "pipecg"]
NAMES = {*FIXED, "fbcgs", "fbcgsr", "ibcgs", "tcqmr", "qmrcgs", "pgmres", "lcd", "fcg"}
NAMES |= {"pipecgrr", "pipecr", "pipeprcg", "groppcg", "pipefcg", "symmlq", "pipebcgs"}
NAMES |= {"pipegcr", "pipefgmres", "steepest_descent"}
COUNTED = [
    *FIXED,
    "pipecgrr",
    "pipecr",
    "pipeprcg",
    "groppcg",
    "fcg",
    "pipefcg",
    "symmlq",
    "qmrcgs",
]


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("ksp", FIXED)
def test_exactly_k_iterations(ksp, k):
    operator, values = sparse(dominant(40, symmetric=True), symmetric=True)
    solver = Solver(ksp, "jacobi", k, adjoint=k + 1)
    b = torch.randn(3, 40, dtype=torch.float64, requires_grad=True)
    solve(operator, values, b, solver).sum().backward()
    assert (solver.report.forward.solves, solver.report.forward.iterations) == (3, 3 * k)
    assert (solver.report.adjoint.solves, solver.report.adjoint.iterations) == (3, 3 * (k + 1))


@pytest.mark.parametrize("level", [3, Refinement(3, 1e-13)])
@pytest.mark.parametrize("ksp", COUNTED)
def test_no_method_does_one_more_with_a_norm_or_a_nullspace(ksp, level):
    weights = torch.rand(20, 20, dtype=torch.float64) + 0.5
    weights = torch.triu(weights, 1) + torch.triu(weights, 1).T
    graph = torch.diag(weights.sum(dim=1)) - weights
    for matrix, promises in ((graph, {"constant_nullspace": True}), (graph + torch.eye(20), {})):
        operator, values = sparse(matrix, symmetric=True, **promises)
        solver = Solver(ksp, "jacobi", level)
        solve(operator, values, torch.randn(20, dtype=torch.float64), solver)
        assert solver.report.forward.iterations == 3


def test_a_method_that_does_two_iterations_at_a_time_takes_no_number_of_iterations():
    operator, values = sparse(dominant(40, symmetric=True), symmetric=True)
    b = torch.randn(40, dtype=torch.float64)
    for level in (1, 2, 6, Refinement(6, 1e-8)):
        with pytest.raises(InputError, match="two iterations at a time"):
            solve(operator, values, b, Solver("pipecg2", "none", level))
    x, wanted = (solve(operator, values, b, Solver(ksp, "none", 1e-9)) for ksp in ("pipecg2", "cg"))
    torch.testing.assert_close(x, wanted, rtol=1e-7, atol=1e-8)


OTHERS = ("qmrcgs", "bicg", "tfqmr", "cgs", "bcgs", "gmres", "cg", "minres", "gcr", "symmlq")


@pytest.mark.parametrize("ksp", [*sorted(PIPELINED_KSPS - {"pipecg2"}), *OTHERS])
@pytest.mark.parametrize("pc", ["none", "lu", "jacobi"])
def test_iterations_after_the_solution_was_reached_do_not_destroy_it(ksp, pc):
    draw, found = np.random.default_rng(0), 0
    for n in (1, 2, 3, 5):
        for count in (n, n + 1, 10, 30, 100):
            matrix = draw.standard_normal((n, n))
            matrix = matrix @ matrix.T + np.eye(n)
            operator, values = sparse(torch.from_numpy(matrix), symmetric=True)
            b = torch.from_numpy(draw.standard_normal(n))
            with contextlib.suppress(SolveError):
                x = solve(operator, values, b, Solver(ksp, pc, Refinement(max_it=count)))
                wanted = np.linalg.solve(matrix, b.numpy())
                torch.testing.assert_close(x, torch.from_numpy(wanted), rtol=1e-4, atol=1e-5)
                found += 1
    assert found >= 6


def reached(ksp, count, matrix, b):
    operator, values = sparse(matrix)
    return solve(operator, values, b, Solver(ksp, "jacobi", count))


@pytest.mark.parametrize("ksp", sorted(NAMES))
def test_k_iterations_are_the_first_k_of_a_solve_with_a_tolerance(ksp):
    """The norm, which a fixed number of iterations leaves out, must not change the iterates."""
    matrix, count = dominant(30, symmetric=ksp in SYMMETRIC_KSPS), 4
    b = torch.randn(30, dtype=torch.float64)
    fixed = reached(ksp, count, matrix, b)
    tested = reached(ksp, Refinement(count, 1e-12), matrix, b)
    torch.testing.assert_close(fixed, tested, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("ksp", FIXED)
@pytest.mark.parametrize("level", [4, 1e-8])
def test_a_zero_right_hand_side_and_a_zero_gradient_give_zero(ksp, level):
    operator, values = sparse(dominant(9, symmetric=True), symmetric=True)
    b = torch.randn(3, 9, dtype=torch.float64)
    b[1] = 0.0
    b.requires_grad_()
    x = solve(operator, values, b, Solver(ksp, "jacobi", level))
    x[2].sum().backward()
    assert not x[1].any()
    assert not b.grad[:2].any()
    assert b.grad[2].any()


@pytest.mark.parametrize("ksp", ["bcgsl", "lsqr"])
def test_methods_that_cannot_skip_the_norm_refuse_fixed_iterations_and_still_solve(ksp):
    matrix = dominant(9, symmetric=True)
    operator, values = sparse(matrix, symmetric=True)
    b = torch.randn(9, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"cannot do a fixed number of iterations.*rtol"):
        solve(operator, values, b, Solver(ksp, "jacobi", 5))
    torch.testing.assert_close(matrix @ solve(operator, values, b, Solver(ksp, "jacobi", 1e-12)), b)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_adjoint_of_k_jacobi_sweeps_is_k_jacobi_sweeps(k):
    matrix = dominant(6, symmetric=True)
    # With a constant diagonal the K-step operator is a polynomial in A, and symmetric as A is.
    matrix.fill_diagonal_(matrix.diagonal().max())
    operator, values = sparse(matrix, symmetric=True)
    solver = Solver("richardson", "jacobi", k)
    b = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda right: solve(operator, values, right, solver), (b,))


@pytest.mark.parametrize(
    ("ksp", "pc"), [("richardson", "jacobi"), ("richardson", "ilu"), ("chebyshev", "jacobi")]
)
def test_the_adjoint_of_k_iterations_of_a_nonsymmetric_matrix_is_their_transpose(ksp, pc):
    operator, values = sparse(dominant(6))
    bounds = {"ksp_chebyshev_eigenvalues": "0.3,1.7"} if ksp == "chebyshev" else {}
    solver = Solver(ksp, pc, 3, petsc_options=bounds)
    x, y = torch.randn(2, 6, dtype=torch.float64)
    x.requires_grad_()
    forward = solve(operator, values, x, solver)
    # A linear map and its transpose: <P x, y> = <x, Pᵀ y>; and they differ from A⁻¹, so K is really
    # kept.
    (transposed,) = torch.autograd.grad(forward, x, y)
    assert torch.dot(forward.detach(), y).item() == pytest.approx(
        torch.dot(x.detach(), transposed).item(), rel=1e-10
    )
    assert not torch.allclose(
        forward, solve(operator, values, x, Solver("preonly", "lu")), atol=1e-6
    )


def test_max_it_with_rtol_stops_at_whichever_comes_first():
    operator, values = sparse(dominant(40, symmetric=True), symmetric=True)
    b = torch.ones(40, dtype=torch.float64)
    solver = Solver("cg", "jacobi", Refinement(max_it=2, rtol=1e-12))
    solve(operator, values, b, solver)
    assert solver.report.forward.iterations == 2
    solver.refine(Refinement(max_it=1000, rtol=1e-2))
    solve(operator, values, b, solver)
    assert solver.report.forward.iterations < 100


def test_a_function_operator_does_k_applications_worth_of_richardson():
    operator = FunctionOperator(lambda _, x: 0.5 * x, 3, MPI.COMM_SELF)
    x = solve(operator, None, torch.ones(3, dtype=torch.float64), Solver("richardson", "none", 4))
    torch.testing.assert_close(x, torch.full((3,), 2.0 * (1 - 0.5**4), dtype=torch.float64))


def test_not_reaching_rtol_is_an_error():
    operator, values = sparse(torch.tensor([[1.0, 0.0], [0.0, 1e-7]], dtype=torch.float64))
    words = r"forward solve with ksp='richardson'.*DIVERGED_MAX_IT at iteration 10000.*max_it"
    with pytest.raises(SolveError, match=words) as caught:
        solve(
            operator, values, torch.ones(2, dtype=torch.float64), Solver("richardson", "none", 1e-8)
        )
    assert (caught.value.reason, caught.value.iteration) == ("DIVERGED_MAX_IT", 10000)
