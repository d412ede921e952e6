"""Property: a lagged preconditioner saves set-ups, and changes nothing that a solve promises."""

import math

import numpy as np
import pytest
import torch
from mpi4py import MPI
from systems import dominant, exact, sparse

from prdp_hpc import (
    FunctionOperator,
    Grid,
    Poisson,
    Refinement,
    ShellPreconditioner,
    SolveError,
    Solver,
    SolveReport,
    SparseOperator,
    solve,
)
from prdp_hpc.linalg.lag import FLOOR, GROWTH, LagRule
from prdp_hpc.petsc import PETSc

METHODS = [("cg", "icc"), ("cg", "gamg"), ("gmres", "bjacobi"), ("bcgs", "asm")]
METHODS += [("gmres", "lu"), ("richardson", "sor"), ("steepest_descent", "gamg"), ("cg", "jacobi")]
CHANGES = 7


def drifting(matrix, drift=0.02):
    """Values of one matrix after the other: the diagonal grows."""
    return [matrix + k * drift * torch.diag(matrix.diagonal()) for k in range(CHANGES)]


def counts(solver):
    both = solver.report.forward, solver.report.adjoint
    return sum(one.set_ups for one in both), sum(one.set_ups_skipped for one in both)


@pytest.mark.parametrize("lag", [1, 2, 3, 100, "auto"])
@pytest.mark.parametrize(("ksp", "pc"), METHODS)
def test_solutions_and_gradients_are_those_of_the_new_values(ksp, pc, lag):
    matrix = dominant(14, symmetric=True)
    operator, _ = sparse(matrix, symmetric=True)
    rows, cols = matrix.nonzero(as_tuple=True)
    solver = Solver(ksp, pc, 1e-12, lag_preconditioner=lag)
    b = torch.randn(2, 14, dtype=torch.float64)
    for new in drifting(matrix):
        inputs = new[rows, cols].clone().requires_grad_(), b.clone().requires_grad_()
        x = solve(operator, *inputs, solver)
        x.backward(weights := torch.randn_like(b))
        right, adjoint, gradient = exact(new, b, weights)
        torch.testing.assert_close(x.detach(), right, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(inputs[1].grad, adjoint, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(inputs[0].grad, gradient[rows, cols], rtol=1e-7, atol=1e-8)
    done, kept = counts(solver)
    if lag != "auto":
        assert (done, kept) == (math.ceil(CHANGES / lag), CHANGES - math.ceil(CHANGES / lag))
    else:
        assert 1 <= done < CHANGES


def test_one_and_none_are_the_same_to_the_last_bit():
    matrix, found = dominant(14), []
    for lag in (None, 1):
        operator, _ = sparse(matrix)
        rows, cols = matrix.nonzero(as_tuple=True)
        solver = Solver("gmres", "ilu", 3, lag_preconditioner=lag)
        b = torch.ones(14, dtype=torch.float64)
        found.append([solve(operator, m[rows, cols], b, solver) for m in drifting(matrix)])
        assert counts(solver) == (CHANGES, 0)
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_a_stale_preconditioner_is_wholly_of_the_old_values():
    """Also its smoothers, blocks and parts: K iterations of Richardson's method are those of the
    dense matrices.
    """
    matrix = dominant(12, symmetric=True)
    rows, cols = matrix.nonzero(as_tuple=True)
    new = matrix + 0.3 * torch.diag(matrix.diagonal())
    b = torch.randn(12, dtype=torch.float64)
    for pc in ("jacobi", "bjacobi", "sor", "asm", "ilu", "gamg", "lu"):
        operator, values = sparse(matrix)
        old = torch.stack(
            [
                solve(operator, values, e, Solver("richardson", pc, 1))
                for e in torch.eye(12).double()
            ]
        ).T
        solver = Solver("richardson", pc, 3, lag_preconditioner=5)
        solve(operator, values, b, solver)
        x = torch.zeros_like(b)
        for _ in range(3):
            x = x + old @ (b - new @ x)
        torch.testing.assert_close(
            solve(operator, new[rows, cols], b, solver), x, rtol=1e-10, atol=1e-12, msg=pc
        )
        assert counts(solver) == (1, 1)


def test_richardson_with_another_matrix_to_precondition_solves_with_the_operators():
    """PETSc's own iterations of SOR and multigrid would solve with the other one."""
    matrix, other = dominant(12), dominant(12, seed=3)
    b = torch.randn(12, dtype=torch.float64)
    for pc in ("sor", "gamg"):
        operator, values = sparse(matrix, preconditioner=sparse(matrix * 1.3 + 0.0 * other))
        x = solve(operator, values, b, Solver("richardson", pc, 1e-10))
        torch.testing.assert_close(matrix @ x, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("lag", [100, "auto"])
@pytest.mark.parametrize(
    ("ksp", "pc", "level"),
    [
        ("cg", "icc", 1e-10),
        ("richardson", "lu", 1e-10),
        ("richardson", "lu", 400),
        ("cg", "lu", Refinement(max_it=2, rtol=1e-10)),
        ("richardson", "jacobi", 1e-10),
    ],
)
def test_values_that_have_nothing_to_do_with_the_old_ones_end_well(ksp, pc, level, lag):
    matrix = dominant(16, symmetric=True)
    rows, cols = matrix.nonzero(as_tuple=True)
    operator, values = sparse(matrix, symmetric=True)
    solver = Solver(ksp, pc, level, lag_preconditioner=lag)
    b = torch.randn(16, dtype=torch.float64)
    solve(operator, values, b, solver)
    # Larger than what was factored: Richardson's method diverges.
    new = 1e3 * torch.flip(matrix, (0, 1)) + matrix
    at = torch.zeros_like(new, dtype=torch.bool)
    at[rows, cols] = True
    new = torch.where(at & at.T, new, 0.0)
    new = 0.5 * (new + new.T) + torch.diag(new.abs().sum(1))
    x = solve(operator, new[rows, cols], b, solver)
    tested = level if isinstance(level, float) else 1e-2
    assert torch.linalg.vector_norm(new @ x - b) <= 100 * tested * torch.linalg.vector_norm(b)


def test_a_failure_that_is_not_the_preconditioners_comes_out_after_one_more_set_up():
    operator, values = sparse(torch.tensor([[1.0, 0.1], [0.1, 1.0]], dtype=torch.float64))
    solver = Solver("richardson", "jacobi", 1e-10, lag_preconditioner="auto")
    b = torch.tensor([1.0, 2.0], dtype=torch.float64)
    solve(operator, values, b, solver)
    with pytest.raises(SolveError, match="DIVERGED_DTOL"):
        solve(operator, torch.tensor([1.0, 2.0, 2.0, 1.0], dtype=torch.float64), b, solver)
    assert counts(solver) == (2, 1)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_new_values_are_checked_although_nothing_is_set_up(wrong):
    matrix = dominant(6, symmetric=True)
    operator, values = sparse(matrix, symmetric=True)
    solver = Solver("cg", "icc", 1e-8, lag_preconditioner=100)
    b = torch.ones(6, dtype=torch.float64)
    solve(operator, values, b, solver)
    bad = values.clone()
    bad[1] = wrong
    with pytest.raises(ValueError, match="NaN or infinity"):
        solve(operator, bad, b, solver)
    lopsided = values.clone()
    lopsided[1] += 0.5
    with pytest.raises(ValueError, match="A = Aᵀ"):
        solve(operator, lopsided, b, solver)
    torch.testing.assert_close(matrix @ solve(operator, values, b, solver), b)


def test_after_a_set_up_that_failed_the_next_is_a_new_one():
    matrix = dominant(6, symmetric=True)
    operator, values = sparse(matrix, symmetric=True)
    solver = Solver("cg", "icc", 1e-8, lag_preconditioner=2)
    b = torch.ones(6, dtype=torch.float64)
    for scale in (1.0, 2.0):
        solve(operator, scale * values, b, solver)
    lopsided = values.clone()
    lopsided[1] += 0.5
    with pytest.raises(ValueError, match="A = Aᵀ"):
        solve(operator, lopsided, b, solver)
    torch.testing.assert_close(matrix @ solve(operator, values, b, solver), b)
    assert counts(solver) == (2, 1)


@pytest.mark.parametrize("level", [4, 1e-8])
def test_an_empty_row_is_an_error_although_nothing_is_set_up(level):
    operator, values = sparse(dominant(6))
    solver = Solver("gmres", "ilu", level, lag_preconditioner=100)
    b = torch.ones(6, dtype=torch.float64)
    solve(operator, values, b, solver)
    rows = dominant(6).nonzero(as_tuple=True)[0]
    with pytest.raises(SolveError, match="row 2 is zero"):
        solve(operator, torch.where(rows == 2, 0.0, values), b, solver)


def test_a_nullspace_that_the_new_values_have_not_is_an_error():
    laplacian = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    operator, values = sparse(laplacian, constant_nullspace=True)
    solver = Solver("gmres", "jacobi", 1e-8, lag_preconditioner=100)
    b = torch.tensor([1.0, -1.0], dtype=torch.float64)
    solve(operator, values, b, solver)
    solve(operator, 2.0 * values, b, solver)
    with pytest.raises(ValueError, match="nullspace"):
        solve(operator, values + torch.tensor([1.0, 0.0, 0.0, 0.0]).double(), b, solver)
    assert counts(solver)[0] == 1


def test_auto_counts_growth_and_not_levels_or_right_hand_sides():
    rule, level = LagRule(None), Refinement(rtol=1e-8)
    rule.measured("forward", level, 2.0)
    rule.measured("forward", level, 3.0)  # a slower right-hand side
    rule.changed()
    rule.measured("forward", level, 3.0 * GROWTH)
    assert not rule.is_due
    rule.measured("forward", Refinement(rtol=1e-2), 30.0)  # 1.5 times what a new one needs there
    assert not rule.is_due
    rule.measured("forward", Refinement(rtol=1e-2), 30.1)
    assert rule.is_due
    rule.was_set_up()
    rule.measured("forward", Refinement(rtol=1e-2), 29.0)  # so the right-hand side was slow
    rule.changed()
    rule.measured("forward", Refinement(rtol=1e-2), 40.0)
    assert not rule.is_due


def test_auto_leaves_tiny_counts_alone():
    rule, level = LagRule(None), Refinement(rtol=1e-8)
    rule.measured("forward", level, 1.0 / 8, slack=FLOOR / 8)
    rule.changed()
    rule.measured("forward", level, 3.0 / 8, slack=FLOOR / 8)
    assert not rule.is_due
    rule.measured("forward", level, 4.0 / 8, slack=FLOOR / 8)
    assert rule.is_due


def test_refining_sets_nothing_up_again():
    matrix = dominant(20, symmetric=True)
    operator, values = sparse(matrix, symmetric=True)
    b = torch.randn(20, dtype=torch.float64, requires_grad=True)
    solver = Solver("cg", "icc", 1e-2, lag_preconditioner="auto")
    for step, level in enumerate((1e-2, 1e-4, 1e-8, 1e-12, 1, 2, 5, 1e-3)):
        solver.refine(level)
        solve(operator, values * (1.0 + 1e-3 * step), b, solver).sum().backward()
    assert counts(solver)[0] == 1


@pytest.mark.parametrize(
    "changes",
    [{"ksp": "preonly", "pc": "lu"}, {"ksp": "cg", "differentiation": "unrolled"}],
)
@pytest.mark.parametrize("lag", [2, "auto"])
def test_where_an_old_preconditioner_would_be_part_of_the_solution(changes, lag):
    with pytest.raises(ValueError, match="lag_preconditioner"):
        Solver(**changes, lag_preconditioner=lag)


@pytest.mark.parametrize("lag", [0, -1, 1.5, True, "often"])
def test_impossible_lags(lag):
    with pytest.raises(ValueError, match="lag_preconditioner is None"):
        Solver(lag_preconditioner=lag)


def test_what_has_no_lag_solves_as_without():
    b = torch.ones(4, 6, dtype=torch.float64)
    operator, values = sparse(dominant(6))
    several = torch.stack([values, 2.0 * values])
    solver = Solver("gmres", "ilu", 1e-10, lag_preconditioner=100)
    for scale in (1.0, 3.0):
        x = solve(operator, scale * several, b, solver)
        torch.testing.assert_close(x[2:] * scale * 2.0 @ dominant(6).T, b[2:])
    assert counts(solver) == (4, 0)
    function = FunctionOperator(lambda v, x: v * x, 3, MPI.COMM_SELF)
    shell = ShellPreconditioner(lambda r: r, lambda r: r)
    for pc in ("none", shell):
        solver = Solver("gmres", pc, 1e-10, lag_preconditioner="auto")
        for scale in (2.0, 4.0):
            right = torch.ones(3, dtype=torch.float64)
            x = solve(function, torch.tensor([scale], dtype=torch.float64), right, solver)
            torch.testing.assert_close(x, right / scale)


def test_a_users_ksp():
    matrix = dominant(10)
    rows, cols = matrix.nonzero(as_tuple=True)
    operator, _ = sparse(matrix)
    ksp = PETSc.KSP().create(MPI.COMM_SELF)
    ksp.setType("gmres")
    ksp.getPC().setType("ilu")
    solver = Solver.from_ksp(ksp, 1e-10, lag_preconditioner=3)
    b = torch.randn(10, dtype=torch.float64, requires_grad=True)
    for new in drifting(matrix):
        x = solve(operator, new[rows, cols], b, solver)
        torch.testing.assert_close(new @ x.detach(), b.detach())
        x.sum().backward()
    assert counts(solver) == (3, CHANGES - 3)
    preonly = PETSc.KSP().create(MPI.COMM_SELF)
    preonly.setType("preonly")
    preonly.getPC().setType("lu")
    with pytest.raises(ValueError, match="lag_preconditioner"):
        Solver.from_ksp(preonly, lag_preconditioner=2)


@pytest.mark.parametrize("lag", [3, "auto"])
@pytest.mark.parametrize("level", [4, 1e-7])
@pytest.mark.parametrize("stop", [1, 4, 5])
def test_who_goes_on_comes_to_the_same_numbers(lag, level, stop):
    """Bit for bit, wherever it stopped; also where the next values are the last ones. What belongs
    to other ranks is left.
    """
    matrix = dominant(24, symmetric=True)
    rows, cols = matrix.nonzero(as_tuple=True)
    steps = [m[rows, cols] for m in drifting(matrix, 0.5)]
    steps.insert(4, steps[3])

    def run(values, state=None):
        operator, _ = sparse(matrix, symmetric=True)
        solver = Solver("cg", "icc", level, lag_preconditioner=lag)
        if state is not None:
            solver.load_state_dict(state)
        found = []
        for own in values:
            b = torch.linspace(-1.0, 1.0, 24, dtype=torch.float64).requires_grad_()
            x = solve(operator, own, b, solver)
            x.square().sum().backward()
            found += [x.detach(), b.grad]
        return found, solver

    whole, _ = run(steps)
    first, solver = run(steps[:stop])
    rest, again = run(steps[stop:], solver.state_dict())
    assert all(torch.equal(*pair) for pair in zip(whole, first + rest, strict=True))
    operator, values = sparse(dominant(3))
    other = Solver("gmres", "ilu", lag_preconditioner=lag)
    other.load_state_dict(again.state_dict())
    solve(operator, values, torch.ones(3, dtype=torch.float64), other)
    assert counts(other) == (1, 0)


def test_old_reports_are_still_read():
    old = {"solves": 3, "iterations": 12, "set_ups": 2, "solve_seconds": 0.5}
    report = SolveReport()
    report.load_state_dict({"forward": old, "adjoint": old})
    assert (report.forward.set_ups, report.forward.set_ups_skipped) == (2, 0)


def drift_on_a_grid(pc, lag, level, comm):
    """Set-ups, iterations, and the solution gathered, of Poisson with a drifting coefficient."""
    grid = Grid((24, 20), comm=comm)
    x, y = grid.coordinates()
    solver = Solver("cg", pc, level, lag_preconditioner=lag)
    poisson = Poisson(grid, solver)
    source = torch.ones(2, 1, *grid.local_shape, dtype=torch.float64, requires_grad=True)
    for step in range(6):
        poisson.diffusivity = torch.exp(torch.sin(6 * x + 0.05 * step) * torch.cos(5 * y))
        u = poisson(source)
        u.square().sum().backward()
    decided = comm.allgather((counts(solver), solver.report.forward.iterations))
    assert len(set(decided)) == 1
    return decided[0][0][0], grid.gather(u.detach()), grid.gather(source.grad)


@pytest.mark.long_on(2, 4)
@pytest.mark.parallel(nprocs=[2, 3, 4])
def test_all_ranks_decide_alike():
    _, *alone = drift_on_a_grid("icc", None, 1e-11, MPI.COMM_SELF)
    for pc, lag, level in (
        ("gamg", 2, 1e-11),
        ("mg", "auto", 1e-11),
        ("bjacobi", "auto", 1e-11),
        ("gamg", "auto", 8),
    ):
        done, *found = drift_on_a_grid(pc, lag, level, MPI.COMM_WORLD)
        assert done < 6
        for ours, theirs in zip(found, alone, strict=True):
            assert level == 8 or np.allclose(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parallel(nprocs=2)
def test_a_zero_on_one_ranks_diagonal_is_an_error_on_all():
    comm = MPI.COMM_WORLD
    operator = SparseOperator(*2 * (np.arange(3) + 3 * comm.rank,), (6, 6), comm)
    solver = Solver("gmres", "sor", 1e-8, lag_preconditioner=100)
    values, b = torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    solve(operator, values, b, solver)
    with pytest.raises(SolveError, match="row 4 is zero"):
        solve(operator, values - torch.eye(3)[1].double() * comm.rank, b, solver)
