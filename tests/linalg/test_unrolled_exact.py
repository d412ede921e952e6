"""Property: where the iterations have no derivative, since nothing is left to solve, the gradient
is that of implicit differentiation at the same level.
"""

import pytest
import torch
from systems import dominant, sparse

from prdp_hpc import Grid, Refinement, Solver, SolveReport, solve
from prdp_hpc.physics import Poisson

METHODS = ["richardson", "steepest_descent", "cg", "gmres", "bcgs"]
SYMMETRIC_ONLY = ["steepest_descent", "cg"]
LEVELS = [1, 2, 5, 1e-2, 1e-9, Refinement(max_it=3, rtol=1e-6)]
DOUBLE = {"dtype": torch.float64}


def pair(ksp, pc, level):
    """A solver that goes through the iterations, and one that does not, of the same level."""
    return [
        Solver(ksp, pc, level, differentiation=differentiation)
        for differentiation in ("unrolled", "implicit")
    ]


def gradients(operator, values, b, grad, solver):
    leaves = values.clone().requires_grad_(), b.clone().requires_grad_()
    return torch.autograd.grad(solve(operator, *leaves, solver), leaves, grad)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("pc", ["none", "jacobi", "lu"])
@pytest.mark.parametrize("ksp", METHODS)
def test_zero_right_hand_sides(ksp, pc, symmetric):
    if (ksp in SYMMETRIC_ONLY and not symmetric) or (ksp, pc) == ("richardson", "none"):
        pytest.skip("does not converge")
    operator, values = sparse(dominant(9, symmetric, seed=2), symmetric=symmetric)
    grad = torch.randn(3, 9, **DOUBLE)
    for level in LEVELS:
        ours, theirs = pair(ksp, pc, level)
        values_grad, b_grad = gradients(operator, values, torch.zeros(3, 9, **DOUBLE), grad, ours)
        wanted = gradients(operator, values, torch.zeros(3, 9, **DOUBLE), grad, theirs)[1]
        torch.testing.assert_close(b_grad, wanted, rtol=1e-12, atol=1e-14)
        assert b_grad.any(dim=1).all()
        assert not values_grad.any()


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("level", [1, 4, 1e-6])
@pytest.mark.parametrize("ksp", METHODS)
def test_zero_and_other_right_hand_sides_of_one_batch(ksp, level, members):
    matrices = [dominant(9, True, density=1.0, seed=seed) for seed in range(members)]
    operator, _ = sparse(matrices[0], symmetric=True)
    values = torch.stack([matrix.flatten() for matrix in matrices])
    values = values if members > 1 else values[0]
    b, grad = torch.randn(2, 4, 9, **DOUBLE)
    zero = torch.tensor([False, True, True, False])
    b[zero] = 0.0
    ours, theirs = pair(ksp, "jacobi", level)
    values_grad, b_grad = gradients(operator, values, b, grad, ours)
    torch.testing.assert_close(
        b_grad[zero], gradients(operator, values, b, grad, theirs)[1][zero], rtol=1e-12, atol=1e-14
    )
    others = b[~zero], grad[~zero]
    wanted = gradients(operator, values, *others, pair(ksp, "jacobi", level)[0])
    torch.testing.assert_close(values_grad, wanted[0], rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(b_grad[~zero], wanted[1], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("level", [4, 1e-6])
@pytest.mark.parametrize("ksp", METHODS)
def test_the_report_counts_each_right_hand_side_once(ksp, level):
    operator, values = sparse(dominant(9, True), symmetric=True)
    b, grad = torch.randn(2, 3, 9, **DOUBLE)
    b[1] = 0.0
    solver = pair(ksp, "jacobi", level)[0]
    x = solve(operator, values, b.requires_grad_(), solver)
    assert solver.report.adjoint == SolveReport().adjoint
    x.backward(grad)
    assert solver.report.forward.solves == solver.report.adjoint.solves == 3
    if level == 4:
        assert solver.report.forward.iterations == solver.report.adjoint.iterations == 12


@pytest.mark.parametrize("ksp", ["steepest_descent", "cg", "gmres", "bcgs"])
def test_solved_before_the_last_iteration(ksp):
    """Of the identity every vector is an eigenvector, to the last digit."""
    operator, values = sparse(2.0 * torch.eye(4, **DOUBLE), symmetric=True)
    b, grad = (
        torch.tensor([[1.0, -2.0, 0.5, 4.0], [3.0, 1.0, 0.0, 0.0]], **DOUBLE),
        torch.randn(2, 4, **DOUBLE),
    )
    for level in (2, 3, 7):
        ours, theirs = pair(ksp, "none", level)
        found = gradients(operator, values, b, grad, ours)
        for one, two in zip(found, gradients(operator, values, b, grad, theirs), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("ksp", METHODS)
def test_a_single_unknown(ksp):
    """Solved by the first iteration, forward and adjoint."""
    operator, values = sparse(torch.tensor([[4.0]], **DOUBLE))
    b, grad = torch.tensor([[2.0], [0.0]], **DOUBLE), torch.ones(2, 1, **DOUBLE)
    for level in (2, 3, 5, 1e-6):
        solver = pair(ksp, "jacobi", level)[0]
        values_grad, b_grad = gradients(operator, values, b, grad, solver)
        torch.testing.assert_close(b_grad, torch.full((2, 1), 0.25, **DOUBLE))
        torch.testing.assert_close(values_grad, torch.tensor([-2.0 / 16.0], **DOUBLE))


@pytest.mark.parametrize("ksp", ["cg", "gmres", "bcgs"])
def test_enough_iterations_at_an_eigenvector_give_the_gradient_of_the_solution(ksp):
    """Also where rounding leaves a residual: differences of the solve itself tell."""
    matrix = dominant(6, True)
    operator, values = sparse(matrix, symmetric=True)
    b = 3.0 * torch.linalg.eigh(matrix).eigenvectors[:, 2:3].T.contiguous()
    grad, towards = torch.randn(2, 1, 6, **DOUBLE)
    solver = Solver(ksp, "none", 12, differentiation="unrolled")
    _, b_grad = gradients(operator, values, b, grad, solver)
    difference = solve(operator, values, b + 1e-3 * towards, solver) - solve(
        operator, values, b - 1e-3 * towards, solver
    )
    expected = (difference * grad).sum() / 2e-3
    torch.testing.assert_close((b_grad * towards).sum(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("ksp", METHODS)
def test_a_source_that_starts_at_zero_moves(ksp):
    operator, values = sparse(dominant(9, True), symmetric=True)
    wanted = torch.randn(9, **DOUBLE)
    source = torch.zeros(9, **DOUBLE, requires_grad=True)
    optimiser = torch.optim.SGD([source], lr=2.0)
    solver = Solver(ksp, "jacobi", 3, differentiation="unrolled")
    losses = []
    for _ in range(6):
        loss = (solve(operator, values, source, solver) - wanted).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("level", [1, 3])
@pytest.mark.parametrize("ksp", METHODS)
def test_right_hand_sides_in_the_nullspace_are_zero(ksp, level):
    """Of a periodic Poisson problem: a constant source has no part that can be solved for."""
    grid = Grid((8,), "periodic")
    grad = torch.randn(8, **DOUBLE)
    found = []
    ours, theirs = pair(ksp, "jacobi", level)
    for source, solver in ((0.0, theirs), (0.0, ours), (0.3, ours)):
        leaf = torch.full((8,), source, **DOUBLE, requires_grad=True)
        x = Poisson(grid, solver)(leaf)
        assert not x.any()
        found.append(torch.autograd.grad(x, leaf, grad)[0])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("ksp", METHODS)
def test_iterations_past_the_solution_keep_the_gradient_beside_a_nullspace(ksp):
    """Rounding in the nullspace is never reduced, and has no part in the gradient."""
    draw = torch.Generator().manual_seed(3)
    kernel = torch.tensor([0.1, -0.2, 3.0], **DOUBLE)
    kernel /= kernel.norm()
    project = torch.eye(3, **DOUBLE) - torch.outer(kernel, kernel)
    for spread in (0.0, 1e-6, 1e-2):
        matrix = project @ torch.diag(torch.tensor([1.0, 1.0 + spread, 1.0], **DOUBLE)) @ project
        operator, values = sparse((matrix + matrix.T) / 2, nullspace=kernel.numpy())
        b, grad = torch.randn(2, 2, 3, generator=draw, **DOUBLE)
        change = project @ torch.randn(3, 3, generator=draw, **DOUBLE) @ project
        solved = Solver("gmres", "none", 1e-12)
        expected = gradients(operator, values, b, grad, solved)
        for level in (5, 7, 12, 30):
            solver = Solver(ksp, "none", level, differentiation="unrolled")
            found = gradients(operator, values, b, grad, solver)
            torch.testing.assert_close(found[1], expected[1], rtol=1e-6, atol=1e-8)
            along = [(one * change.flatten()).sum() for one in (found[0], expected[0])]
            torch.testing.assert_close(*along, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ksp", METHODS)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_large_guess_leaves_the_gradient_of_values_in_low_precision_its_digits(ksp, kind):
    """The parts by the guess and by the iterations cancel."""
    matrix = dominant(5, True, density=1.0, seed=4).to(kind)
    operator, _ = sparse(matrix.double(), symmetric=True)
    b, grad = torch.randn(2, 3, 5, **DOUBLE)
    guess = torch.full_like(b, 1e3)
    solver = pair(ksp, "jacobi", 25)[0]
    found = []
    for values in (matrix.flatten(), matrix.double().flatten()):
        leaf = values.clone().requires_grad_()
        found += torch.autograd.grad(solve(operator, leaf, b, solver, guess), leaf, grad)
    assert found[0].dtype is kind
    size = float(found[1].abs().max())
    torch.testing.assert_close(
        found[0].double(), found[1], rtol=torch.finfo(kind).eps, atol=1e-12 * size
    )
