"""Property: a batch of matrices in one solve is as many solves with one matrix each."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from systems import dominant, exact, sparse
from torch import Tensor

from prdp_hpc import SolveError, Solver, SparseOperator, solve
from prdp_hpc.linalg.held_matrices import MOST_SETS, Pool

METHODS = st.sampled_from(
    [
        ("gmres", "jacobi"),
        ("bcgs", "ilu"),
        ("preonly", "lu"),
        ("gmres", "asm"),
        ("richardson", "bjacobi"),
    ]
)


def batch(count, n=7, seed=0):
    """An operator with a full pattern, and that many matrices: dense, and as values."""
    matrices = torch.stack([dominant(n, seed=100 * seed + m, density=1.0) for m in range(count)])
    operator, _ = sparse(torch.ones(n, n, dtype=torch.float64))
    return operator, matrices, matrices.flatten(1).clone()


def dense(matrices, b):
    """The same solve by dense algebra."""
    return torch.linalg.solve(matrices, b.view(len(matrices), -1, b.shape[-1]).mT).mT.reshape(
        b.shape
    )


@pytest.fixture
def solver():
    return Solver("gmres", "jacobi", 1e-13)


@pytest.fixture
def made(monkeypatch):
    """One item for each PETSc matrix made so far."""
    items, create = [], SparseOperator._new_matrix

    def counting(self):
        items.append(self)
        return create(self)

    monkeypatch.setattr(SparseOperator, "_new_matrix", counting)
    return items


@given(
    n=st.integers(1, 15),
    count=st.integers(1, 4),
    rights=st.integers(1, 3),
    seed=st.integers(0, 1000),
    method=METHODS,
)
def test_a_batch_equals_single_solves(n, count, rights, seed, method):
    operator, matrices, values = batch(count, n, seed)
    b, grad = torch.randn(
        2, count * rights, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    values.requires_grad_()
    b.requires_grad_()
    solver = Solver(*method, 1e-13)
    x = solve(operator, values, b, solver)
    x.backward(grad)
    own = [t.view(count, rights, n) for t in (x.detach(), b.grad, b.detach(), grad)]
    for m in range(count):
        solution, adjoint, dense_gradient = exact(matrices[m], own[2][m], own[3][m])
        torch.testing.assert_close(own[0][m], solution, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(own[1][m], adjoint, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(values.grad[m], dense_gradient.flatten(), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("ksp", "pc"), [("gmres", "jacobi"), ("richardson", "jacobi"), ("bcgs", "ilu")]
)
def test_truncated_solves_of_a_batch_are_those_of_single_matrices(ksp, pc):
    operator, _, values = batch(3)
    b = torch.randn(6, 7, dtype=torch.float64)
    solver = Solver(ksp, pc, 2)
    together = solve(operator, values, b, solver)
    alone = torch.cat(
        [solve(operator, own, right, solver) for own, right in zip(values, b.split(2), strict=True)]
    )
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("pc", ["asm", "bjacobi", "gasm", "icc", "ilu", "sor", "gamg", "cholesky"])
def test_the_symmetry_of_an_operator_is_that_of_its_batches(pc):
    """Preconditioners with blocks factor them by Cholesky's method if the matrix is symmetric."""
    matrix = torch.tensor([[0.07, 1.0], [1.0, -0.7]], dtype=torch.float64)
    b = torch.tensor([[-0.7, -0.6]], dtype=torch.float64)
    operator = SparseOperator([0, 0, 1, 1], [0, 1, 0, 1], (2, 2), symmetric=True)
    solver, values = Solver("cg", pc, 1), matrix.flatten()
    torch.testing.assert_close(
        solve(operator, values[None], b, solver)[0], solve(operator, values, b[0], solver)
    )


@pytest.mark.parametrize("rights", [1, 2])
def test_gradients_are_derivatives(solver, rights):
    operator, _, values = batch(3, n=4)
    b = torch.randn(3 * rights, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda v, right: solve(operator, v, right, solver), (values.requires_grad_(), b)
    )


def test_a_chain_of_batches_in_one_graph(solver):
    operator, matrices, values = batch(2)
    b = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    values.requires_grad_()
    first = solve(operator, values, b, solver)
    # The second batch's matrices depend on the first one's solution, as in a Picard iteration.
    other = values * (1.5 + 0.1 * first.view(2, 14).tanh().mean(1, keepdim=True))
    solve(operator, other, first, solver).square().sum().backward()
    same, right = matrices.clone().requires_grad_(), b.detach().clone().requires_grad_()
    x = dense(same, right)
    scale = 1.5 + 0.1 * x.view(2, 14).tanh().mean(1, keepdim=True)
    dense(same * scale[..., None], x).square().sum().backward()
    torch.testing.assert_close(b.grad, right.grad)
    torch.testing.assert_close(values.grad, same.grad.flatten(1))


GRAPHS = MOST_SETS + 3


@given(
    order=st.permutations(range(GRAPHS)),
    sizes=st.lists(st.integers(1, 3), min_size=GRAPHS, max_size=GRAPHS),
)
def test_more_graphs_alive_than_sets_of_matrices_and_backward_in_any_order(order, sizes):
    operator, _, _ = batch(1, n=3)
    solver = Solver("gmres", "jacobi", 1e-13)
    runs = []
    for seed, count in enumerate(sizes):
        _, matrices, values = batch(count, n=3, seed=seed)
        b = torch.full((count, 3), seed + 1.0, dtype=torch.float64, requires_grad=True)
        runs.append((matrices, values.requires_grad_(), b, solve(operator, values, b, solver)))
    for index in order:
        matrices, values, b, x = runs[index]
        x.sum().backward()
        for m, matrix in enumerate(matrices):
            _, adjoint, dense_gradient = exact(
                matrix, b[m : m + 1].detach(), torch.ones(1, 3, dtype=torch.float64)
            )
            torch.testing.assert_close(b.grad[m : m + 1], adjoint)
            torch.testing.assert_close(values.grad[m], dense_gradient.flatten())


def test_backward_twice_gives_the_same_also_when_others_had_the_matrices_between(solver):
    operator, _, values = batch(2)
    b = torch.randn(2, 7, dtype=torch.float64)
    values.requires_grad_()
    loss = solve(operator, values, b, solver).sum()
    (first,) = torch.autograd.grad(loss, values, retain_graph=True)
    other = solve(operator, values * 3.0, b, solver).sum()
    (second,) = torch.autograd.grad(loss, values)
    (third,) = torch.autograd.grad(other, values)
    assert torch.equal(first, second)
    torch.testing.assert_close(third, first / 3.0)


def test_one_matrix_and_batches_of_matrices_take_turns(solver):
    operator, matrices, values = batch(2)
    b = torch.randn(2, 7, dtype=torch.float64, requires_grad=True)
    alone = solve(operator, values[0], b, solver)
    both = solve(operator, values, b, solver)
    alone.sum().backward()
    ones = torch.ones(2, 7, dtype=torch.float64)
    torch.testing.assert_close(b.grad, dense(matrices[:1].mT, ones))
    b.grad = None
    both.sum().backward()
    torch.testing.assert_close(b.grad, dense(matrices.mT, ones))


def test_single_precision_comes_back_in_single_precision(solver):
    operator, _, values = batch(2)
    b = torch.randn(4, 7, dtype=torch.float64)
    wanted_values, wanted_b = values.clone().requires_grad_(), b.clone().requires_grad_()
    wanted = solve(operator, wanted_values, wanted_b, solver)
    wanted.sum().backward()
    single_values, single_b = values.float().requires_grad_(), b.float().requires_grad_()
    x = solve(operator, single_values, single_b, solver)
    x.sum().backward()
    for single, double in (
        (x, wanted),
        (single_values.grad, wanted_values.grad),
        (single_b.grad, wanted_b.grad),
    ):
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "b", "message"),
    [
        ((2, 48), (2, 7), r"shape \(49,\) or, for M matrices, \(M, 49\), not \(2, 48\)"),
        ((2, 2, 49), (4, 7), r"not \(2, 2, 49\)"),
        ((0, 49), (2, 7), r"not \(0, 49\)"),
        ((2, 49), (3, 7), r"values of 2 matrices b must have shape \(M R, n_local\).*not \(3, 7\)"),
        ((2, 49), (7,), r"values of 2 matrices b must have shape.*not \(7,\)"),
        ((2, 49), (2, 6), r"b must have shape \(7,\) or \(B, 7\)"),
    ],
)
def test_wrong_shapes(solver, values, b, message):
    operator, _, _ = batch(1)
    with pytest.raises(ValueError, match=message):
        solve(
            operator,
            torch.ones(values, dtype=torch.float64),
            torch.ones(b, dtype=torch.float64),
            solver,
        )


def test_no_matrices_for_an_empty_pattern(solver):
    operator = SparseOperator([], [], (3, 3))
    with pytest.raises(ValueError, match="values has 0 matrices"):
        solve(
            operator,
            torch.ones(0, 0, dtype=torch.float64),
            torch.ones(2, 3, dtype=torch.float64),
            solver,
        )


def test_bad_numbers_are_traced_to_the_entry(solver):
    operator, _, values = batch(3)
    values[1, 9] = torch.nan
    with pytest.raises(ValueError, match=r"first in entry 9 \(row 1, column 2\)"):
        solve(operator, values, torch.ones(3, 7, dtype=torch.float64), solver)


def test_counters_and_one_set_up_a_matrix(solver):
    operator, _, values = batch(3)
    b = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    solver.refine(4, adjoint=2)
    for step in (1, 2):
        solve(operator, values * step, b, solver).sum().backward()
        forward, adjoint = solver.report.forward, solver.report.adjoint
        assert (forward.solves, forward.iterations, forward.set_ups) == (
            6 * step,
            24 * step,
            3 * step,
        )
        assert (adjoint.solves, adjoint.iterations, adjoint.set_ups) == (6 * step, 12 * step, 0)


def test_matrices_are_made_once(solver, made):
    operator, _, values = batch(3)
    b = torch.randn(3, 7, dtype=torch.float64)
    made.clear()
    for _ in range(100):
        solve(operator, values, b, solver)
    with torch.no_grad():
        for _ in range(100):
            solve(operator, values.requires_grad_(), b, solver)
    for _ in range(100):
        solve(operator, values, b, solver).sum().backward()
    assert len(made) == 3
    for _ in range(5):
        solve(operator, values[:2], b[:2], solver).sum().backward()
    assert len(made) == 3
    # graphs that never see a backward pass
    for _ in range(100):
        solve(operator, values, b, solver)
    assert len(made) == 3


def test_a_failed_backward_pass_keeps_no_matrices(solver, made):
    operator, _, values = batch(3)
    b = torch.randn(3, 7, dtype=torch.float64)
    for _ in range(20):
        x = solve(operator, values.requires_grad_(), b, solver)
        with pytest.raises(SolveError, match="NaN"):
            x.backward(torch.full_like(x, torch.nan))
    assert len(made) == 3


def test_the_number_of_sets_is_the_users(solver, made):
    operator, _, values = batch(3)
    b, values = torch.randn(3, 7, dtype=torch.float64), values.requires_grad_()
    for most in (1, 4):
        operator.matrix_sets = most
        losses = [solve(operator, values * m, b, solver).sum() for m in range(1, 7)]
        assert len(made) == 3 * most
        set_ups = solver.report.forward.set_ups + solver.report.adjoint.set_ups
        # From the last back, as in a chain: what is held still needs no set-up, the others one.
        for loss in reversed(losses):
            loss.backward()
        done = solver.report.forward.set_ups + solver.report.adjoint.set_ups - set_ups
        assert done == 3 * (6 - most)
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="matrix_sets must be an integer of at least 1"):
            operator.matrix_sets = wrong


@pytest.mark.parametrize("count", [1, 3])
def test_new_values_in_single_precision_are_converted_once(solver, monkeypatch, count):
    operator, _, values = batch(count)
    b, convert, counted = torch.randn(count, 7), Tensor.to, []

    def counting(tensor, *args, **kwargs):
        result = convert(tensor, *args, **kwargs)
        counted.append(tensor.numel() == values.numel() and result is not tensor)
        return result

    monkeypatch.setattr(Tensor, "to", counting)
    single = values.float() if count > 1 else values[0].float()
    for factor in (1, 2, 3):
        counted.clear()
        solve(operator, factor * single, b, solver)
        assert sum(counted) == 1


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=60))
def test_no_two_batches_share_a_set_while_there_are_few(steps):
    pool, held, fresh = Pool(), [], iter(range(10**6))
    for take, number in steps:
        if take or not held:
            members = pool.acquire(1 + number % 4, lambda: next(fresh))
            assert len(members) >= 1 + number % 4
            if len(held) < MOST_SETS:
                assert not set(members) & {member for other in held for member in other}
                held.append(members)
            else:  # the one that has waited longest
                assert set(held[0]) <= set(members)
                stolen = held.pop(0)
                held.append(members)
                pool.release(stolen)
        else:
            done = held.pop(number % len(held))
            pool.release(done)
            pool.release(done)
    assert next(fresh) <= 4 * MOST_SETS
