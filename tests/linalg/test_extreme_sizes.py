"""Right-hand sides and gradients of any size: solves are homogeneous in both, to the last bit."""

import gc

import numpy as np
import pytest
import torch
from mpi4py import MPI
from systems import sparse

from prdp_hpc import Refinement, SolveError, Solver, SparseOperator, solve

SIZES = [2.0**-900, 2.0**-660, 2.0**-200, 2.0**-41, 2.0**41, 2.0**500, 2.0**1000]
LEVELS = [3, 1e-8]


def tridiagonal(n):
    rows, cols = np.nonzero(abs(np.subtract.outer(np.arange(n), np.arange(n))) <= 1)
    values = torch.tensor(np.where(rows == cols, 4.0 + rows, -1.0), requires_grad=True)
    return SparseOperator(rows, cols, (n, n), symmetric=True), values


def answer(solver, b, grad):
    operator, values = tridiagonal(6)
    b = b.clone().requires_grad_()
    x = solve(operator, values, b, solver)
    return x.detach(), *torch.autograd.grad(x, (values, b), grad)


@pytest.mark.parametrize("differentiation", ["implicit", "unrolled"])
@pytest.mark.parametrize("ksp", ["cg", "gmres", "bcgs", "richardson", "steepest_descent"])
@pytest.mark.parametrize("level", LEVELS)
def test_solves_are_homogeneous(ksp, level, differentiation):
    solver = Solver(ksp, "jacobi", level, differentiation=differentiation)
    draw = torch.Generator().manual_seed(1)
    b, grad = torch.randn(2, 2, 6, dtype=torch.float64, generator=draw)
    x, of_values, of_b = answer(solver, b, grad)
    for size in SIZES:
        scaled = answer(solver, size * b, grad)
        assert torch.equal(scaled[0], size * x)
        assert torch.equal(scaled[2], of_b)
        assert torch.equal(scaled[1], size * of_values)
        scaled = answer(solver, b, size * grad)
        assert torch.equal(scaled[1], size * of_values)
        assert torch.equal(scaled[2], size * of_b)


@pytest.mark.parametrize("differentiation", ["implicit", "unrolled"])
@pytest.mark.parametrize("ksp", ["richardson", "batched_richardson", "batched_cg", "batched_bcgs"])
@pytest.mark.parametrize("level", LEVELS)
def test_solves_with_a_nullspace_are_homogeneous(ksp, level, differentiation):
    if ksp.startswith("batched") and differentiation == "unrolled":
        pytest.skip("batched methods have implicit derivatives")
    matrix = np.diag([1.0, 2.0, 2.0, 2.0, 1.0]) - np.eye(5, k=1) - np.eye(5, k=-1)
    rows, cols = np.nonzero(matrix)
    values = torch.from_numpy(0.3 * matrix[rows, cols])
    operator = SparseOperator(rows, cols, (5, 5), symmetric=True, constant_nullspace=True)
    solver = Solver(ksp, "none", level, differentiation=differentiation)
    b, grad = torch.randn(2, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def found(size):
        right = (size * b).requires_grad_()
        x = solve(operator, values, right, solver)
        return x.detach(), *torch.autograd.grad(x, right, size * grad)

    expected = found(1.0)
    for size in (*SIZES[:-1], 2.0**990):
        for one, other in zip(found(size), expected, strict=True):
            torch.testing.assert_close(one / size, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ksp", ["cg", "gmres", "bcgs", "steepest_descent"])
@pytest.mark.parametrize("pc", ["none", "jacobi"])
@pytest.mark.parametrize("level", LEVELS)
def test_unrolled_solves_are_homogeneous_in_the_matrix(ksp, pc, level):
    operator, values = tridiagonal(6)
    solver = Solver(ksp, pc, level, differentiation="unrolled")
    b, grad = torch.randn(2, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def found(size):
        own, right = (size * values.detach()).requires_grad_(), b.clone().requires_grad_()
        x = solve(operator, own, right, solver)
        of_values, of_b = torch.autograd.grad(x, (own, right), grad)
        return size * x.detach(), size * of_b, size * of_values * size

    expected = found(1.0)
    for size in (2.0**-490, 2.0**-350, 2.0**101, 2.0**400, 2.0**490):
        for one, other in zip(found(size), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("differentiation", ["implicit", "unrolled"])
@pytest.mark.parametrize("ksp", ["minres", "cg", "gmres", "fgmres", "bcgs"])
@pytest.mark.parametrize("iterations", [1, 2, 3, 7, 31])
def test_iterations_past_the_solution(ksp, iterations, differentiation):
    if differentiation == "unrolled" and ksp in ("minres", "fgmres"):
        pytest.skip("not unrolled")
    index = np.arange(4)
    operator = SparseOperator(index, index, (4, 4))
    values = torch.full((4,), 3.0, dtype=torch.float64)
    b = torch.arange(1.0, 5.0, dtype=torch.float64).requires_grad_()
    solver = Solver(ksp, "none", iterations, differentiation=differentiation)
    x = solve(operator, values, b, solver)
    torch.testing.assert_close(x, b / 3.0)
    (found,) = torch.autograd.grad(x, b, torch.ones_like(b))
    # One step of a Krylov method is not linear, so its own derivative is another one.
    if differentiation == "implicit" or iterations > 1:
        torch.testing.assert_close(found, torch.full_like(b, 1 / 3.0))


@pytest.mark.parametrize("differentiation", ["implicit", "unrolled"])
def test_a_krylov_space_that_ends_without_the_solution(differentiation):
    # A graph's Laplacian, and a right-hand side with a part in its nullspace.
    rows, cols = (index.ravel() for index in np.indices((4, 4)))
    operator = SparseOperator(rows, cols, (4, 4))
    values = torch.tensor(np.where(rows == cols, 3.0, -1.0))
    b = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    solver = Solver("gmres", "none", 1e-8, differentiation=differentiation)
    with pytest.raises(SolveError, match="BREAKDOWN"):
        solve(operator, values, b, solver)


def test_set_ups_that_fail_leave_a_program_that_runs():
    operator = SparseOperator([0, 1], [0, 1], (3, 3))
    for pc in ("gamg", "ilu", "sor", "eisenstat", "lu"):
        with pytest.raises(SolveError, match="row 2"):
            solve(operator, torch.ones(2).double(), torch.ones(3).double(), Solver("gmres", pc))
        gc.collect()


def test_a_lazy_sign_in_memory():
    operator, values = tridiagonal(6)
    values = values.detach()
    lazy = torch.complex(values, -values).conj().imag
    b = torch.complex(values[:6], -values[:6]).conj().imag
    assert lazy.is_neg()
    assert b.is_neg()
    for solver in (Solver("cg"), Solver("cg", differentiation="unrolled")):
        x = solve(operator, lazy, b, solver)
        assert torch.equal(x, solve(operator, values, values[:6], solver))


def test_options_that_the_method_does_not_have():
    operator, values = tridiagonal(6)
    solver = Solver("cg", petsc_options={"ksp_pc_side": "right"})
    with pytest.raises(ValueError, match="side"):
        solve(operator, values, torch.ones(6).double(), solver)


def test_minres_on_a_right_hand_side_that_no_solution_has():
    operator = SparseOperator([0, 0, 1, 1], [0, 1, 0, 1], (2, 2))
    values = torch.tensor([0.9, -0.9, -0.9, 0.9], dtype=torch.float64)
    with pytest.raises(SolveError):
        solve(operator, values, torch.tensor([1.0, 0.9]).double(), Solver("minres", "none", 1e-8))


@pytest.mark.parametrize("pc", ["ilu", "icc", "lu", "cholesky", "bjacobi", "asm", "gasm", "sor"])
@pytest.mark.parametrize("ksp", ["cg", "gmres", "richardson"])
def test_values_that_a_set_up_failed_for_leave_later_ones_right(ksp, pc):
    """PETSc keeps the error of a factorisation; small pivots are as bad as zeros."""
    A = torch.eye(4, dtype=torch.float64) * 3.0 + 0.5
    operator, values = sparse(A)
    b, solver = torch.arange(1.0, 5.0, dtype=torch.float64), Solver(ksp, pc, 1e-9)
    expected = torch.linalg.solve(A, b)
    for scale in (1.0, 0.0, 1.0, 1e-30, 1e-17, 1.0, 0.0, 1e-140):
        try:
            x = solve(operator, scale * values, b, solver)
        except SolveError:
            assert scale != 1.0
            continue
        torch.testing.assert_close(scale * x, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("ksp", ["gmres", "batched_gmres", "bcgs", "richardson"])
def test_iterations_up_to_a_number_need_not_solve_where_the_diagonal_has_zeros(ksp):
    """As without a tolerance."""
    A = torch.roll(torch.eye(7, dtype=torch.float64), 1, dims=1) * 0.5
    operator, values = sparse(A)
    b = torch.tensor([1.0, -2.0, -0.2, -0.8, 0.7, 0.9, 3.0], dtype=torch.float64)
    for K in (1, 2):
        given = Solver(ksp, "jacobi", K), Solver(ksp, "jacobi", Refinement(K, 1e-6))
        found, expected = (solve(operator, values, b, solver) for solver in given)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("ksp", ["richardson", "gmres", "cg"])
def test_sor_without_a_diagonal_entry_is_an_error(ksp):
    """PETSc would divide by the entry after it."""
    rows, cols = [0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]
    operator = SparseOperator(rows, cols, (3, 3), MPI.COMM_SELF)
    values = torch.tensor([1.0, 2.0, 1.0, 3.0, 2.0, 3.0], dtype=torch.float64)
    with pytest.raises(SolveError, match="diagonal"):
        solve(operator, values, torch.ones(3, dtype=torch.float64), Solver(ksp, "sor", 3))
