"""Property: with `initial_guess="last"` each sample starts from its own last solution."""

import pytest
import torch
from systems import dominant, exact, sparse

from prdp_hpc import SolveError, Solver, solve


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def iterations(solver):
    return solver.report.forward.iterations, solver.report.adjoint.iterations


@pytest.mark.parametrize("differentiation", ["implicit", "unrolled"])
def test_each_sample_starts_where_it_ended_last(differentiation):
    matrix = dominant(20, symmetric=True)
    operator, values = sparse(matrix, symmetric=True)
    solver = Solver("cg", "jacobi", 1e-9, differentiation=differentiation, initial_guess="last")
    b = double(4, 2, 20)
    for batch in ([0, 1], [2, 3]):
        with solver.samples(batch):
            solve(operator, values, b[batch].view(4, 20), solver)
    assert solver.last_solution_bytes == 4 * 2 * 20 * 8
    solver.report.reset()
    with solver.samples([3, 0]):
        x = solve(operator, values, b[[3, 0]].view(4, 20), solver)
    assert iterations(solver)[0] == 0
    torch.testing.assert_close(x @ matrix, b[[3, 0]].view(4, 20), rtol=1e-6, atol=1e-7)
    with solver.samples([3, 7]):
        solve(operator, values, b[[3, 1]].view(4, 20), solver)
    assert iterations(solver)[0] > 0
    with solver.samples([1, 2, 3]), pytest.raises(ValueError, match="names 3 samples"):
        solve(operator, values, b[:2].view(4, 20), solver)
    with pytest.raises(ValueError, match="integers or strings"), solver.samples([1.5]):
        pass


def test_the_adjoint_and_each_solve_of_a_block_have_their_own():
    matrix = dominant(20)
    operator, values = sparse(matrix)
    solver = Solver("gmres", "jacobi", 1e-9, initial_guess="last")
    b = double(2, 20)
    for _ in range(2):
        solver.report.reset()
        leaf = b.clone().requires_grad_()
        with solver.samples(["a", "b"]):
            first = solve(operator, values, leaf, solver)
            second = solve(operator, values, first, solver)
        second.pow(3).sum().backward()
    assert iterations(solver) == (0, 0)
    _, inner, _ = exact(matrix, first.detach(), 3.0 * second.detach() ** 2)
    torch.testing.assert_close(leaf.grad, exact(matrix, b, inner)[1], rtol=1e-5, atol=1e-7)


def test_second_derivatives_and_batched_gradients_leave_the_kept_ones_alone():
    matrix = dominant(8)
    operator, values = sparse(matrix)
    solver = Solver("gmres", "lu", 1e-13, initial_guess="last")
    values, b = values.requires_grad_(), double(2, 8).requires_grad_()

    def run(values, b):
        return solve(operator, values, b, solver)

    assert torch.autograd.gradgradcheck(run, (values, b), fast_mode=True)
    rows = torch.autograd.functional.jacobian(lambda b: run(values, b), b, vectorize=True)
    x = torch.linalg.solve(matrix, torch.eye(8).double())
    torch.testing.assert_close(rows[0, :, 0], x, rtol=1e-8, atol=1e-10)
    solver.report.reset()
    run(values, b.detach())
    assert iterations(solver)[0] == 0


def test_without_samples_the_last_solve_of_as_many_right_hand_sides():
    matrix = dominant(20)
    operator, values = sparse(matrix)
    solver = Solver("gmres", "jacobi", 1e-9, initial_guess="last")
    for count in (1, 3, 1, 3):
        solver.report.reset()
        solve(operator, values, torch.ones(count, 20, dtype=torch.float64), solver)
    assert iterations(solver)[0] == 0
    other, _ = sparse(matrix)
    solve(other, values, torch.ones(3, 20, dtype=torch.float64), solver)
    assert iterations(solver)[0] > 0


@pytest.mark.parametrize("level", [5, 1e-8])
def test_a_last_solution_of_something_else_is_not_used(level):
    matrix = dominant(20, symmetric=True)
    operator, values = sparse(matrix, symmetric=True)
    solver = Solver("cg", "jacobi", level, initial_guess="last")
    solve(operator, values, 1e6 * double(20), solver)
    solver.report.reset()
    b = double(20)
    fresh = Solver("cg", "jacobi", level)
    assert torch.equal(solve(operator, values, b, solver), solve(operator, values, b, fresh))


def test_a_failed_solve_is_not_kept():
    operator, values = sparse(dominant(5))
    solver = Solver("gmres", "jacobi", 1e-9, initial_guess="last")
    with pytest.raises(SolveError):
        solve(operator, values, torch.full((5,), float("nan")).double(), solver)
    assert solver.last_solution_bytes == 0


@pytest.mark.parametrize("level", [4, 1e-7])
@pytest.mark.parametrize("lag", [None, "auto"])
def test_who_goes_on_comes_to_the_same_numbers(lag, level):
    matrix = dominant(24, symmetric=True)
    rows, cols = matrix.nonzero(as_tuple=True)
    steps = [(matrix * (1.0 + 0.1 * k))[rows, cols] for k in range(6)]

    def run(values, state=None):
        operator, _ = sparse(matrix, symmetric=True)
        solver = Solver("cg", "icc", level, lag_preconditioner=lag, initial_guess="last")
        if state is not None:
            solver.load_state_dict(state)
        found = []
        for own in values:
            b = torch.linspace(-1.0, 1.0, 48, dtype=torch.float64).view(2, 24).requires_grad_()
            with solver.samples([4, 2]):
                x = solve(operator, own, b, solver)
            x.square().sum().backward()
            found += [x.detach(), b.grad]
        return found, solver

    whole, _ = run(steps)
    for stop in (1, 3):
        first, solver = run(steps[:stop])
        rest, _ = run(steps[stop:], solver.state_dict())
        assert all(torch.equal(*pair) for pair in zip(whole, first + rest, strict=True))


def test_the_normal_equations_of_an_adjoint_solve_are_its_own():
    """Its tolerance refers to `A g`; columns of other scales make that differ from `Aᵀ g`."""
    matrix = dominant(8, density=1.0) * torch.logspace(0, 4, 8, dtype=torch.float64)
    operator, values = sparse(matrix)
    solver = Solver("cgne", "none", 1e-6, initial_guess="last")
    b, gradients = double(8), torch.eye(8, dtype=torch.float64)[:1] * torch.tensor([[1.0], [2.0]])
    for gradient in gradients:
        leaf = b.clone().requires_grad_()
        with solver.samples(["one"]):
            solve(operator, values, leaf, solver).backward(gradient)
    rest = gradients[1] - matrix.T @ leaf.grad
    assert (matrix @ rest).norm() <= 2e-6 * (matrix @ gradients[1]).norm()
