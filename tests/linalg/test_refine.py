"""Property: a new level costs no set-up; only new values do."""

import pytest
import torch
from systems import dominant, sparse

from prdp_hpc import Refinement, Solver, SolveReport, solve


@pytest.mark.parametrize(
    ("ksp", "pc"), [("gmres", "ilu"), ("richardson", "jacobi"), ("gmres", "gamg"), ("bcgs", "asm")]
)
def test_refining_in_place_sets_nothing_up_again(ksp, pc):
    matrix = dominant(12)
    operator, values = sparse(matrix)
    values.requires_grad_()
    solver = Solver(ksp, pc, 1)
    b = torch.randn(2, 12, dtype=torch.float64)
    for level in (1, 3, 1e-3, 20, 1e-10):
        solver.refine(level)
        x = solve(operator, values, b, solver)
        x.sum().backward()
    assert (solver.report.forward.set_ups, solver.report.adjoint.set_ups) == (1, 0)
    assert solver.report.forward.solves == solver.report.adjoint.solves == 10
    torch.testing.assert_close(matrix @ x.detach().T, b.T, rtol=1e-7, atol=1e-7)


def test_only_other_numbers_set_up_again():
    operator, values = sparse(dominant())
    solver = Solver("gmres", "ilu")
    changes = [
        (lambda v: v, 1),
        (lambda v: v, 1),
        (lambda v: v.clone(), 1),
        (lambda v: v.mul_(1.0), 1),
        (lambda v: v.mul_(2.0), 2),
        (lambda v: v / 2.0, 3),
        (lambda v: v / 2.0, 3),
        (lambda v: v, 4),
    ]
    for change, set_ups in changes:
        solve(operator, change(values), torch.ones(7, dtype=torch.float64), solver)
        assert solver.report.forward.set_ups == set_ups


def test_each_solver_of_an_operator_sets_up_once():
    operator, values = sparse(dominant())
    first, second = Solver("gmres", "ilu"), Solver("bcgs", "lu")
    b = torch.ones(7, dtype=torch.float64)
    for _ in range(3):
        for solver in (first, second):
            solve(operator, values, b, solver)
    assert first.report.forward.set_ups == second.report.forward.set_ups == 1


def test_a_backward_after_other_values_sets_up_in_the_adjoint():
    operator, values = sparse(dominant())
    solver = Solver("gmres", "ilu")
    b = torch.ones(7, dtype=torch.float64, requires_grad=True)
    x = solve(operator, values, b, solver)
    solve(operator, values * 2, b, solver)
    x.sum().backward()
    assert (solver.report.forward.set_ups, solver.report.adjoint.set_ups) == (2, 1)


def test_forward_and_adjoint_levels_are_apart():
    operator, values = sparse(dominant(30))
    solver = Solver("richardson", "jacobi", 3)
    b = torch.ones(30, dtype=torch.float64, requires_grad=True)
    for forward, adjoint in ((3, None), (4, 2), (Refinement(max_it=5), Refinement(max_it=1))):
        solver.refine(forward, adjoint)
        solver.report.reset()
        solve(operator, values, b, solver).sum().backward()
        done = solver.report.forward.iterations, solver.report.adjoint.iterations
        assert done == (solver.refinement.max_it, solver.adjoint.max_it)


def test_an_explicit_adjoint_level_stays_until_another_is_given():
    solver = Solver("richardson", "jacobi", 3, adjoint=50)
    solver.refine(2)
    assert (solver.refinement.max_it, solver.adjoint.max_it) == (2, 50)
    solver.refine(4, adjoint=7)
    solver.refine(5)
    assert (solver.refinement.max_it, solver.adjoint.max_it) == (5, 7)
    following = Solver("richardson", "jacobi", 3)
    following.refine(6)
    assert following.adjoint.max_it == 6


@pytest.mark.parametrize("matrices", [1, 3])
@pytest.mark.parametrize("retain", [False, True])
def test_a_solve_keeps_the_levels_that_it_was_made_with(matrices, retain):
    operator, values = sparse(dominant())
    values = values if matrices == 1 else values.repeat(matrices, 1)
    b = torch.ones(matrices, 7, dtype=torch.float64, requires_grad=True)
    gradients = []
    for later in (None, 40, 1e-12):
        solver = Solver("richardson", "jacobi", 3, adjoint=2)
        x = solve(operator, values, b, solver)
        if later is not None:
            solver.refine(later, later)
            solve(operator, values, b, solver)
        solver.report.reset()
        for _ in range(1 + retain):
            (gradient,) = torch.autograd.grad(x.sum(), b, retain_graph=retain)
        gradients.append(gradient)
        assert solver.report.adjoint.iterations == 2 * matrices * (1 + retain)
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_the_report_survives_its_state_dict():
    operator, values = sparse(dominant())
    solver = Solver("gmres", "ilu")
    solve(operator, values, torch.ones(2, 7, dtype=torch.float64), solver)
    copy = SolveReport()
    copy.load_state_dict(solver.report.state_dict())
    assert copy == solver.report
    copy.reset()
    assert copy == SolveReport()


IMPOSSIBLE = [{"max_it": n} for n in (0, -1, 2.0, True)] + [
    {"rtol": r} for r in (0.0, 1.0, float("nan"))
]


@pytest.mark.parametrize("wrong", IMPOSSIBLE)
def test_impossible_levels_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must"):
        Refinement(**wrong)
