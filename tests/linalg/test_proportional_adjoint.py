"""Property: where the loss is a compliance, the adjoint solve starts at its solution; this changes
no derivative and no other loss.
"""

import pytest
import torch
from systems import dominant, sparse

from prdp_hpc import Refinement, Solver, solve

SIZE = 20


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def gradients(solver, loss, rows=(), symmetric=True, matrices=()):
    """The loss's derivatives of the values and of b by solves, and by dense algebra."""
    torch.manual_seed(0)
    matrix = dominant(SIZE, symmetric=True)
    operator, values = sparse(matrix, symmetric=symmetric)
    factors = torch.rand(*matrices, 1, dtype=torch.float64) + 0.5
    values = (factors * values if matrices else values).requires_grad_()
    b = double(*rows, SIZE).requires_grad_()
    solver.report.reset()
    found = torch.autograd.grad(loss(solve(operator, values, b, solver), b.detach()), (values, b))
    places = matrix.reshape(-1).nonzero()[:, 0]
    dense = torch.zeros(*matrices, SIZE * SIZE, dtype=torch.float64).index_add(-1, places, values)
    dense = dense.unflatten(-1, (SIZE, SIZE))
    rights = b.reshape(*matrices, -1, SIZE)
    x = torch.linalg.solve(dense, rights.mT).mT.reshape(b.shape)
    return found, torch.autograd.grad(loss(x, b.detach()), (values, b))


def compliance(x, b):
    return -0.3 * (x * b).sum() ** 2 if x.dim() == 1 else -0.3 * (x * b).sum(-1).square().sum()


@pytest.mark.parametrize(("rows", "matrices"), [((), ()), ((3,), ()), ((4,), (2,))])
def test_a_compliance_needs_no_adjoint_iteration(rows, matrices):
    solver = Solver("cg", "jacobi", 1e-10)
    found, expected = gradients(solver, compliance, rows, matrices=matrices)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    assert solver.report.forward.iterations > 5 * solver.report.adjoint.iterations
    assert solver.report.adjoint.solves == solver.report.forward.solves


def test_the_adjoint_solve_reaches_its_own_tolerance():
    solver = Solver("cg", "jacobi", 1e-3)
    solver.refine(1e-3, 1e-12)
    found, expected = gradients(solver, lambda x, b: 2.0 * (x * b).sum())
    torch.testing.assert_close(found[1], expected[1], rtol=1e-9, atol=1e-12)
    assert solver.report.adjoint.iterations > solver.report.forward.iterations


@pytest.mark.parametrize(
    ("loss", "symmetric", "level"),
    [
        (lambda x, b: (x * b).sum() + 1e-3 * x.square().sum(), True, 1e-10),
        (lambda x, b: x.square().sum(), True, 1e-10),
        (compliance, False, 1e-10),
        (compliance, True, Refinement(max_it=9)),
    ],
)
def test_other_adjoint_solves_start_at_zero(loss, symmetric, level):
    solver = Solver("gmres", "jacobi", level)
    gradients(solver, loss, (2,), symmetric)
    assert solver.report.adjoint.iterations >= solver.report.forward.iterations - 2


@pytest.mark.parametrize("ksp", ["cg", "richardson"])
def test_with_a_largest_number_of_iterations_the_adjoint_solve_starts_at_zero(ksp):
    found = [
        gradients(
            Solver(ksp, "jacobi", Refinement(max_it=3, rtol=rtol)), lambda x, b: (x * b).sum()
        )
        for rtol in (None, 1e-14)
    ]
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-12, atol=1e-14)


def test_derivatives_of_second_order_are_exact():
    matrix = dominant(4, symmetric=True)
    operator, values = sparse(matrix, symmetric=True)
    solver, b = Solver("cg", "jacobi", 1e-14), double(4)
    rows, cols = matrix.nonzero(as_tuple=True)
    pairs = torch.maximum(rows, cols) * 4 + torch.minimum(rows, cols)

    def run(entries, b):
        x = solve(operator, entries[pairs], b, solver)
        return (x * b).sum()

    entries = torch.zeros(16, dtype=torch.float64).index_put((pairs,), values).requires_grad_()
    assert torch.autograd.gradgradcheck(run, (entries, b.requires_grad_()), atol=1e-6)


def test_b_may_be_overwritten_before_the_backward_pass():
    matrix = dominant(SIZE, symmetric=True)
    operator, values = sparse(matrix, symmetric=True)
    b, gradient = double(SIZE), double(SIZE)
    results = []
    for overwritten in (False, True):
        own, right = values.clone().requires_grad_(), b.clone()
        x = solve(operator, own, right, Solver("cg", "jacobi", 1e-12))
        if overwritten:
            right.copy_(gradient)
        x.backward(gradient)
        results.append(own.grad)
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-10)
