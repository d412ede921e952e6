"""Property: failures of nonlinear solves have informative messages, and the next solve works."""

import numpy as np
import pytest
import torch
from mpi4py import MPI
from nonlinear_systems import N, jacobian, jacobian_values, parameters, pattern, residual

from prdp_hpc import (
    ColouredJacobian,
    Grid,
    NonlinearSolveError,
    NonlinearSolver,
    Solver,
    SparseOperator,
    solve_nonlinear,
)
from prdp_hpc.errors import InputError

SELF = MPI.COMM_SELF
START = torch.zeros(N, dtype=torch.float64)


def run(function, start=START, parameters=(), solver=None, **options):
    options.setdefault("comm", SELF)
    return solve_nonlinear(function, start, parameters, solver or NonlinearSolver(), **options)


def test_no_root_names_reason_iteration_level_and_what_to_try():
    solver = NonlinearSolver()
    with pytest.raises(NonlinearSolveError, match=r"LOCAL_MIN|LINE_SEARCH") as caught:
        run(lambda u: u**2 + 1.0, START + 1.0, solver=solver)
    assert "Newton iteration" in str(caught.value)
    assert "level rtol=1e-08" in str(caught.value)
    assert "start closer" in str(caught.value)
    assert caught.value.reason in str(caught.value)
    torch.testing.assert_close(run(lambda u: u - 1.0, solver=solver), START + 1.0)


def test_too_few_iterations_are_an_error_of_a_tolerance_only():
    a, c, s = parameters()
    options = {"petsc_options": {"snes_max_it": 1}}
    arguments = (a, {"c": c, "s": [s]})
    with pytest.raises(NonlinearSolveError, match="DIVERGED_MAX_IT at Newton iteration 1") as e:
        run(residual, parameters=arguments, solver=NonlinearSolver(**options))
    assert (e.value.reason, e.value.iteration) == ("DIVERGED_MAX_IT", 1)
    run(residual, parameters=arguments, solver=NonlinearSolver(refinement=1))


def test_nan_is_found_where_it_comes_in():
    nan = START.clone()
    nan[2] = torch.nan
    with pytest.raises(NonlinearSolveError, match="the start u0 holds NaN"):
        run(lambda u: u - 1.0, nan)
    with pytest.raises(NonlinearSolveError, match="residual at the start holds NaN"):
        run(lambda u, p: u - p, parameters=nan)
    weight = torch.ones(N, dtype=torch.float64, requires_grad=True)
    u = run(lambda u, w: w * u - 1.0, parameters=weight)
    with pytest.raises(Exception, match="incoming gradient holds NaN"):
        (u * nan).sum().backward()


def test_a_residual_that_is_nan_beyond_its_domain_is_left_by_the_line_search():
    start = torch.full((1,), 4.0, dtype=torch.float64)
    solver = NonlinearSolver()
    # Newton's first step from 4 leads to −1.5, where the logarithm is NaN.
    u = run(lambda u: torch.log(u), start, solver=solver)
    assert abs(float(u) - 1.0) < 1e-7
    assert solver.report.forward.line_search_evaluations > 0


def test_samples_that_fail_name_themselves():
    start = torch.ones(4, 2, dtype=torch.float64)
    roots = torch.tensor([1.0, -1.0, 4.0, -2.0], dtype=torch.float64)
    with pytest.raises(NonlinearSolveError, match="samples 1, 3 of 4") as caught:
        run(lambda u, r: u**2 - r, start, roots, per_sample=True)
    assert caught.value.samples == (1, 3)


@pytest.mark.parametrize("pc", ["lu", "jacobi"])
def test_a_linear_system_without_a_solution_says_so(pc):
    own = ColouredJacobian([0, 1, 1], [0, 0, 1], 2, SELF)
    solver = NonlinearSolver(Solver("gmres", pc))
    with pytest.raises(NonlinearSolveError, match="linear system of a Newton step") as caught:
        run(
            lambda u: torch.stack([u[0] - 1.0, u[0] + 0.0 * u[1] - 2.0]),
            torch.zeros(2, dtype=torch.float64),
            solver=solver,
            jacobian=own,
        )
    assert caught.value.reason == "DIVERGED_LINEAR_SOLVE"
    u = run(lambda u: u - 1.0, START[:2], solver=solver, jacobian=own)
    torch.testing.assert_close(u, START[:2] + 1.0)


def test_a_residual_without_u_is_an_error():
    with pytest.raises(InputError, match="does not depend on the unknowns"):
        run(lambda u: torch.ones(N, dtype=torch.float64))
    with pytest.raises(InputError, match="does not depend on the unknowns"):
        run(lambda u: torch.from_numpy(u.detach().numpy() ** 3 - 1.0))
    with pytest.raises(NonlinearSolveError):
        run(lambda u: 0.0 * u + 1.0)


@pytest.mark.parametrize(
    "function",
    [
        lambda u: u[:-1],
        lambda u: u.view(1, -1),
        lambda u: u.float(),
        lambda u: u.detach().numpy(),
        lambda u: None,
    ],
)
def test_a_residual_of_a_wrong_kind_is_an_error(function):
    with pytest.raises(InputError, match="the residual must"):
        run(function)


def test_an_exception_of_the_residual_comes_out_as_it_is_wherever_it_was_raised():
    solver = NonlinearSolver()
    for fatal in (1, 2, 3, 4):
        calls = []

        def function(u, calls=calls, fatal=fatal):
            calls.append(1)
            if len(calls) == fatal:
                raise KeyError("mine")
            return u**3 + u - 1.0

        with pytest.raises(KeyError, match="mine"):
            run(function, solver=solver)
    torch.testing.assert_close(run(lambda u: u - 1.0, solver=solver), START + 1.0)


def test_a_tensor_with_a_gradient_that_is_no_parameter_is_an_error():
    weight = torch.ones(N, dtype=torch.float64, requires_grad=True)
    with pytest.raises(InputError, match="not one of the parameters"):
        run(lambda u: weight * u - 1.0)
    with torch.no_grad():
        run(lambda u: weight * u - 1.0)
    run(lambda u: weight.detach() * u - 1.0)


def test_a_pattern_that_leaves_entries_out_is_an_error():
    own = ColouredJacobian(range(N), range(N), N, SELF)
    a, c, s = parameters()
    with pytest.raises(InputError, match="not in the pattern of ColouredJacobian"):
        run(residual, parameters=(a, {"c": c, "s": [s]}), jacobian=own)
    grid = Grid((N,), "periodic", SELF)
    with pytest.raises(InputError, match="larger width"):
        run(
            lambda u: 4.0 * u + torch.roll(u, 2, -1) ** 2 - 1.0,
            torch.ones(1, 1, N, dtype=torch.float64),
            grid=grid,
            jacobian=ColouredJacobian.on_grid(grid),
        )


def test_an_approximate_jacobian_finds_the_root_and_refuses_a_gradient():
    rows, cols = pattern()
    operator = SparseOperator(rows, cols, (N, N), SELF)
    a, c, s = parameters()
    arguments = (a, {"c": c, "s": [s]})

    def picard(u, a, more):
        exact = jacobian_values(u, a, more)
        return torch.cat([exact[:N], 0.5 * exact[N:]])

    solver = NonlinearSolver(Solver("preonly", "lu"), 1e-9)
    u = run(residual, parameters=arguments, solver=solver, jacobian=(operator, picard))
    torch.testing.assert_close(u.detach(), run(residual, parameters=arguments).detach())
    with pytest.raises(InputError, match="not the derivative of the residual"):
        u.sum().backward()


def test_wrong_values_of_the_user_s_jacobian_are_refused():
    operator = jacobian("values", SELF)[0]
    for values in (None, torch.ones(3, dtype=torch.float64)):
        with pytest.raises(InputError, match="values"):
            run(lambda u: u - 1.0, jacobian=(operator, lambda u, values=values: values))
    with pytest.raises(InputError, match="hold"):
        run(lambda u: u - 1.0, jacobian=(operator, lambda u: torch.full((2 * N,), torch.nan)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": "zero"}, "u0 must be a tensor"),
        ({"start": torch.zeros(2, 3, 4, dtype=torch.float64)}, "u0 must have shape"),
        ({"jacobian": "coloured"}, "jacobian must be"),
        ({"parameters": START, "per_sample": True}, "per_sample needs a batch"),
        ({"parameters": START, "per_sample": (True, False)}, "per_sample has 2 entries for 1"),
        (
            {"start": torch.zeros(2, N).double(), "parameters": START, "per_sample": True},
            "must have 2 entries, one per sample",
        ),
        ({"grid": Grid((4,), "periodic", SELF)}, "u0 must have shape"),
        ({"jacobian": ColouredJacobian([0], [0], 1, SELF)}, "the Jacobian has 1 unknowns"),
        ({"solver": NonlinearSolver(Solver("gmres", "ilu"))}, "needs the entries"),
    ],
)
def test_wrong_arguments_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        run(lambda u, *p: u - 1.0, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"refines": "outer"}, "refines must be"),
        ({"inner": "loose"}, "inner must be"),
        ({"inner": "eisenstat_walker", "refines": "inner"}, "needs an inner level"),
        ({"refinement": 0}, "max_it"),
        ({"solver": Solver("cg", "jacobi", differentiation="unrolled")}, "implicitly"),
        ({"solver": Solver(initial_guess="last")}, "start from 0"),
        ({"petsc_options": {"snes_rtol": 1e-3}}, "snes_rtol.*set the level"),
        ({"petsc_options": {"snes_mf": True}}, "pass a jacobian to solve_nonlinear"),
        ({"petsc_options": {"ksp_rtol": 1e-3}}, "not an option of SNES"),
        ({"options_prefix": "-x"}, "options_prefix must be a word"),
    ],
)
def test_wrong_settings_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        NonlinearSolver(**options)


def test_options_reach_snes_and_misspelt_ones_are_refused():
    basic = {"snes_linesearch_type": "basic"}
    solver = NonlinearSolver(petsc_options=basic)
    with pytest.raises(NonlinearSolveError):
        run(torch.atan, START + 3.0, solver=solver)
    with pytest.raises(InputError, match="'snes_linesearch_typ' has no effect"):
        run(lambda u: u - 1.0, solver=NonlinearSolver(petsc_options={"snes_linesearch_typ": 1}))
    with pytest.raises(InputError, match="PETSc refuses"):
        run(
            lambda u: u - 1.0,
            solver=NonlinearSolver(petsc_options={"snes_linesearch_type": "no"}),
        )


def test_options_of_the_command_line_are_read_under_a_prefix():
    from petsc4py import PETSc

    database = PETSc.Options()
    database["flow_snes_max_it"] = 1
    try:
        solver = NonlinearSolver(options_prefix="flow_")
    finally:
        database.delValue("flow_snes_max_it")
    assert solver.snes_options == {"snes_max_it": "1"}
    with pytest.raises(NonlinearSolveError, match="DIVERGED_MAX_IT"):
        run(lambda u: u**3 + u - 1.0, solver=solver)


def test_colours_and_rows_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="has rows from 0 to 9"):
        ColouredJacobian([0, 9], [0, 0], N, SELF)
    with pytest.raises(InputError, match="integers of at least 0"):
        ColouredJacobian([0], [0], N, SELF, colours=np.zeros(2, dtype=int))
