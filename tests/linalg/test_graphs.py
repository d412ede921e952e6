"""Property: solves may be combined in any way in autograd graphs."""

import gc
import weakref

import pytest
import torch
from systems import dominant, exact, sparse

from prdp_hpc import Solver, solve


@pytest.fixture
def solver():
    return Solver("gmres", "ilu", 1e-13)


def test_several_forwards_with_other_values_before_the_backwards(solver):
    matrix = dominant()
    operator, values = sparse(matrix)
    where = matrix.nonzero(as_tuple=True)
    b = torch.randn(7, dtype=torch.float64)
    runs = []
    for factor in (1.0, 2.0, 1.0, 5.0):
        own, right = (values * factor).requires_grad_(), (b * factor).requires_grad_()
        runs.append((factor, own, right, solve(operator, own, right, solver)))
    for factor, own, right, x in (runs[1], runs[0], runs[3], runs[2]):
        x.sum().backward()
        _, adjoint, dense = exact(
            matrix * factor, right.detach()[None], torch.ones(1, 7, dtype=torch.float64)
        )
        torch.testing.assert_close(right.grad, adjoint[0])
        torch.testing.assert_close(own.grad, dense[where])


def test_one_solver_twice_in_a_graph(solver):
    matrix = dominant()
    operator, values = sparse(matrix)
    values.requires_grad_()
    b = torch.randn(7, dtype=torch.float64, requires_grad=True)
    (solve(operator, values, solve(operator, values, b, solver), solver) ** 2).sum().backward()
    dense = matrix.clone().requires_grad_()
    right = b.detach().clone().requires_grad_()
    (torch.linalg.solve(dense, torch.linalg.solve(dense, right)) ** 2).sum().backward()
    torch.testing.assert_close(b.grad, right.grad)
    torch.testing.assert_close(values.grad, dense.grad[matrix.nonzero(as_tuple=True)])


def test_one_solver_for_two_operators_and_one_operator_for_two_solvers(solver):
    first, second = dominant(seed=1), dominant(n=5, seed=2)
    one, one_values = sparse(first)
    two, two_values = sparse(second)
    other = Solver("bcgs", "jacobi", 1e-13)
    for factor in (1.0, 3.0):
        b, c = torch.randn(7, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
        x, y, z = (
            solve(one, one_values * factor, b, solver),
            solve(two, two_values, c, solver),
            solve(one, one_values * factor, b, other),
        )
        torch.testing.assert_close(factor * first @ x, b)
        torch.testing.assert_close(second @ y, c)
        torch.testing.assert_close(x, z)


def test_values_changed_in_place_between_independent_graphs(solver):
    matrix = dominant()
    operator, values = sparse(matrix)
    values.requires_grad_()
    for step in range(3):
        b = torch.randn(7, dtype=torch.float64)
        x = solve(operator, values, b, solver)
        torch.testing.assert_close(matrix * 2**step @ x.detach(), b)
        x.sum().backward()
        with torch.no_grad():
            values.mul_(2.0)


def test_values_changed_in_place_before_the_backward_are_refused(solver):
    operator, values = sparse(dominant())
    values.requires_grad_()
    x = solve(operator, values, torch.ones(7, dtype=torch.float64), solver)
    with torch.no_grad():
        values.mul_(2.0)
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation"):
        x.sum().backward()


def test_the_solution_may_be_changed_in_place_when_no_gradient_needs_it(solver):
    matrix = dominant()
    operator, values = sparse(matrix)
    b = torch.randn(7, dtype=torch.float64, requires_grad=True)
    x = solve(operator, values, b, solver)
    x.mul_(2.0)
    x.sum().backward()
    torch.testing.assert_close(
        b.grad, torch.linalg.solve(matrix.T, torch.full((7,), 2.0, dtype=torch.float64))
    )


def test_a_change_in_place_of_a_solution_that_a_gradient_needs_is_refused(solver):
    operator, values = sparse(dominant())
    x = solve(operator, values.requires_grad_(), torch.ones(7, dtype=torch.float64), solver)
    x.mul_(2.0)
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation"):
        x.sum().backward()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_and_then_with(solver, mode):
    matrix = dominant()
    operator, values = sparse(matrix)
    values.requires_grad_()
    b = torch.randn(7, dtype=torch.float64, requires_grad=True)
    with mode():
        quiet = solve(operator, values, b, solver)
        half = solve(operator, values * 2.0, b, solver)
    assert not quiet.requires_grad
    torch.testing.assert_close(half * 2.0, quiet)
    x = solve(operator, values, b, solver)
    x.sum().backward()
    torch.testing.assert_close(x.detach(), quiet)
    torch.testing.assert_close(
        b.grad, torch.linalg.solve(matrix.T, torch.ones(7, dtype=torch.float64))
    )


def test_backward_twice_gives_the_same(solver):
    operator, values = sparse(dominant())
    values.requires_grad_()
    loss = solve(operator, values, torch.ones(7, dtype=torch.float64), solver).sum()
    (first,) = torch.autograd.grad(loss, values, retain_graph=True)
    (second,) = torch.autograd.grad(loss, values)
    assert torch.equal(first, second)


def test_a_solver_does_not_keep_an_operator_alive(solver):
    operator, values = sparse(dominant())
    solve(operator, values, torch.ones(7, dtype=torch.float64), solver)
    gone = weakref.ref(operator)
    del operator
    gc.collect()
    assert gone() is None
