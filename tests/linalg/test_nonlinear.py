"""Property: `solve_nonlinear` gives the root, and the derivatives of the root, of any residual."""

import copy
import pickle

import pytest
import torch
from mpi4py import MPI
from nonlinear_systems import (
    KINDS,
    N,
    check_slopes,
    dense_newton,
    flux_divergence,
    jacobian,
    parameters,
    residual,
)

from prdp_hpc import (
    ColouredJacobian,
    Grid,
    NonlinearSolver,
    Refinement,
    Solver,
    SolveReport,
    solve_nonlinear,
)
from prdp_hpc.errors import InputError

SELF = MPI.COMM_SELF
START = torch.zeros(N, dtype=torch.float64)


def tight(ksp="gmres", pc="none", **others):
    return NonlinearSolver(Solver(ksp, pc, 1e-13), 1e-13, **others)


def solved(solver, own, a, c, s, start=START):
    return solve_nonlinear(
        residual, start, (a, {"c": c, "s": [s]}), solver, jacobian=own, comm=SELF
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [("gmres", "none"), ("preonly", "lu"), ("gmres", "gamg")])
def test_the_root_and_its_gradients_are_those_of_dense_algebra(kind, method):
    if kind == "torch" and method[1] != "none":
        pytest.skip("torch's products have no entries")
    solver, own, (a, c, s) = tight(*method), jacobian(kind, SELF), parameters()
    u = solved(solver, own, a, c, s)
    weights = torch.linspace(1.0, 2.0, N, dtype=torch.float64)
    (u * weights).sum().backward()
    root = dense_newton(lambda v: residual(v, a, {"c": c, "s": [s]}), START.clone()).detach()
    torch.testing.assert_close(u.detach(), root, rtol=1e-10, atol=1e-12)
    dense = torch.autograd.functional.jacobian(
        lambda v, *p: residual(v, p[0], {"c": p[1], "s": [p[2]]}), (root, a, c, s)
    )
    adjoint = torch.linalg.solve(dense[0].T, weights)
    for parameter, own_jacobian in zip((a, c, s), dense[1:], strict=True):
        expected = -(adjoint @ own_jacobian.reshape(N, -1)).reshape(parameter.shape)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_of_every_order_are_derivatives(kind):
    solver = tight() if kind == "torch" else tight("preonly", "lu")
    own = jacobian(kind, SELF)

    def function(a, c, s):
        return solved(solver, own, a, c, s)

    check_slopes(function, *parameters(), second=True)


def test_derivatives_along_tangents_and_of_gradients_along_them_are_derivatives():
    solver, start = tight(), torch.zeros(2, dtype=torch.float64)

    def function(a):
        return solve_nonlinear(
            lambda u, a: 2.0 * u + a * u.flip(0) ** 3 - 1.0, start, a, solver, comm=SELF
        )

    a = torch.tensor([0.3, 0.8], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, a, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, a, check_fwd_over_rev=True)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_gradients_are_those_one_by_one(kind):
    solver = tight() if kind == "torch" else tight("preonly", "lu")
    own, given = jacobian(kind, SELF), parameters()
    u = solved(solver, own, *given)
    weights = torch.randn(3, N, dtype=torch.float64)
    together = torch.autograd.grad(
        u, given, weights, is_grads_batched=True, retain_graph=True, create_graph=True
    )
    squares = sum(own.square().sum() for own in together)
    again = torch.autograd.grad(squares, given, retain_graph=True)
    one_by_one = [
        torch.autograd.grad(u, given, own, retain_graph=True, create_graph=True) for own in weights
    ]
    for found, rows in zip(together, zip(*one_by_one, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(rows))
    squares = sum(own.square().sum() for rows in one_by_one for own in rows)
    torch.testing.assert_close(again, torch.autograd.grad(squares, given))


def test_jacobians_of_torch_func_are_torch_s_and_vmap_is_refused():
    a, c, s = (parameter.detach() for parameter in parameters())

    def function(a):
        return solved(tight(), None, a, c, s)

    torch.testing.assert_close(
        torch.func.jacrev(function)(a), torch.autograd.functional.jacobian(function, a)
    )
    with pytest.raises(InputError, match=r"pass a batch u0"):
        torch.func.vmap(function)(a.expand(2, -1))


def test_the_adjoint_is_one_solve_whatever_newton_did_and_the_start_has_no_gradient():
    a, c, s = parameters()
    counts = []
    for start in (START, solved(tight(), None, a, c, s).detach()):
        solver = tight()
        guess = start.clone().requires_grad_()
        solved(solver, None, a, c, s, guess).sum().backward()
        counts.append(solver.report.forward.newton_iterations)
        assert solver.report.adjoint.solves == 1
        assert guess.grad is None
    assert counts[0] > counts[1]


def test_newton_converges_quadratically_and_the_levels_are_what_they_say():
    a, c, s = parameters()
    exact = solved(tight(), None, a, c, s).detach()
    errors = []
    for count in (1, 2, 3):
        solver = NonlinearSolver(Solver("gmres", "none", 1e-13), count)
        u = solved(solver, None, a, c, s).detach()
        errors.append(float((u - exact).norm()))
        assert solver.report.forward.newton_iterations == count
        assert solver.report.forward.solves == count
    assert errors[2] < 10 * errors[1] ** 2
    assert errors[1] < 10 * errors[0] ** 2
    loose = NonlinearSolver(Solver("gmres", "none", 1e-13), Refinement(rtol=1e-2, max_it=9))
    solved(loose, None, a, c, s)
    assert 0 < loose.report.forward.newton_iterations < 4


def test_more_newton_iterations_than_rounding_leaves_room_for_are_no_error():
    a, c, s = parameters()
    solver = NonlinearSolver(Solver("preonly", "lu", 1e-10), 40)
    u = solved(solver, jacobian("coloured", SELF), a, c, s)
    torch.testing.assert_close(u, solved(tight(), None, a, c, s), rtol=1e-12, atol=1e-13)
    assert solver.report.forward.newton_iterations < 40


@pytest.mark.parametrize(
    ("function", "inverse", "start"),
    [
        (lambda u, p: torch.exp(u) - p, torch.log, 30.0),
        (lambda u, p: u**3 - p, lambda p: p ** (1 / 3), 1e6),
        (lambda u, p: torch.log(u) - p, torch.exp, 1e8),
    ],
)
def test_a_tolerance_below_rounding_reaches_the_root_from_a_far_start(function, inverse, start):
    p = torch.tensor([0.7, 3.0], dtype=torch.float64, requires_grad=True)
    solver = NonlinearSolver(Solver("gmres", "none", 1e-10), 1e-100)
    u = solve_nonlinear(function, torch.full_like(p, start).detach(), p, solver, comm=SELF)
    root = inverse(p)
    torch.testing.assert_close(u, root, rtol=1e-13, atol=0.0)
    torch.testing.assert_close(
        torch.autograd.grad(u.sum(), p), torch.autograd.grad(root.sum(), p), rtol=1e-9, atol=0.0
    )


def test_a_start_that_is_the_solution_stays():
    u = solve_nonlinear(lambda u: u**3 + u, START, (), NonlinearSolver(), comm=SELF)
    assert torch.equal(u, START)
    a, c, s = parameters()
    root = solved(tight(), None, a, c, s).detach()
    torch.testing.assert_close(solved(NonlinearSolver(), None, a, c, s, root).detach(), root)


def test_eisenstat_walker_saves_linear_iterations():
    a, c, s = parameters()
    work = {}
    for inner in (1e-10, "eisenstat_walker"):
        solver = NonlinearSolver(Solver("richardson", "jacobi", 1e-10), 1e-10, inner=inner)
        u = solved(solver, jacobian("coloured", SELF), a, c, s)
        torch.testing.assert_close(u, solved(tight(), None, a, c, s), rtol=1e-8, atol=1e-9)
        work[inner] = solver.report.forward.iterations
    assert work["eisenstat_walker"] < work[1e-10]


def test_a_line_search_rescues_steps_that_are_too_long_and_is_counted():
    def function(u):
        return torch.atan(u)

    start = torch.full((1,), 3.0, dtype=torch.float64)
    solver = NonlinearSolver(Solver("gmres", "none"), 1e-10)
    u = solve_nonlinear(function, start, (), solver, comm=SELF)
    assert abs(float(u)) < 1e-8
    report = solver.report.forward
    assert report.line_search_evaluations > 0
    assert (
        report.function_evaluations == 1 + report.newton_iterations + report.line_search_evaluations
    )


@pytest.mark.parametrize("grid_form", [False, True])
def test_a_batch_is_its_samples_one_by_one(grid_form):
    grid = Grid((N,), "periodic", SELF)
    own = ColouredJacobian.on_grid(grid, channels=2) if grid_form else None
    shape = (2, N) if grid_form else (N,)
    options = {"grid": grid} if grid_form else {"comm": SELF}

    def function(u, old, rate, scale):
        other = torch.roll(u, 1, dims=-2 if grid_form else -1)
        return u + rate * u**3 + 0.3 * torch.roll(other, 1, dims=-1) - scale * old

    generator = torch.Generator().manual_seed(0)
    old = torch.rand(3, *shape, generator=generator, dtype=torch.float64).requires_grad_()
    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    scale = torch.rand(3, *[1] * len(shape), generator=generator, dtype=torch.float64)
    solver = tight("preonly", "lu") if grid_form else tight()

    def batch(old, rate, scale):
        start = torch.zeros_like(old)
        return solve_nonlinear(
            function,
            start,
            (old, rate, scale),
            solver,
            jacobian=own,
            per_sample=(True, False, True),
            **options,
        )

    whole = batch(old, rate, scale)
    assert solver.report.forward.nonlinear_solves == 3
    each = torch.cat([batch(old[i : i + 1], rate, scale[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(whole, each)
    grads = torch.autograd.grad(whole.square().sum(), (old, rate))
    expected = torch.autograd.grad(each.square().sum(), (old, rate))
    torch.testing.assert_close(grads, expected)
    check_slopes(batch, old, rate, scale)


def test_refine_drives_newton_or_its_linear_solves():
    outer = NonlinearSolver(Solver("gmres", "none"), 1e-8, inner=1e-2)
    outer.refine(3, 2)
    assert outer.refinement == outer.newton == Refinement(max_it=3)
    assert outer.solver.refinement == Refinement(rtol=1e-2)
    assert outer.adjoint.rtol == pytest.approx(1e-4)
    outer.refine(1e-5, 1e-3)
    assert (outer.newton, outer.adjoint) == (Refinement(rtol=1e-5), Refinement(rtol=1e-3))
    fixed = NonlinearSolver(Solver("gmres", "none"), 4, inner=5)
    assert fixed.adjoint == Refinement(max_it=20)
    inner = NonlinearSolver(Solver("gmres", "none"), 2, refines="inner")
    inner.refine(7, 4)
    assert inner.refinement == inner.solver.refinement == Refinement(max_it=7)
    assert (inner.newton, inner.adjoint) == (Refinement(max_it=2), Refinement(max_it=4))
    own = NonlinearSolver(Solver("gmres", "none", 1e-2, adjoint=1e-5), 4)
    assert own.adjoint == Refinement(rtol=1e-5)


def test_levels_of_a_solve_are_those_of_its_call():
    a, c, s = parameters()
    solver = NonlinearSolver(Solver("gmres", "none"), 2, refines="inner", inner=3)
    u = solved(solver, None, a, c, s)
    solver.refine(6)
    u.sum().backward()
    assert solver.report.forward.iterations == 6
    assert solver.report.adjoint.iterations == 3


def test_copies_have_the_settings_and_have_solved_nothing():
    solver = NonlinearSolver(Solver("gmres", "none"), 3, inner=1e-3, adjoint=2)
    a, c, s = parameters()
    solved(solver, None, a, c, s)
    for twin in (copy.deepcopy(solver), pickle.loads(pickle.dumps(solver))):
        assert repr(twin) == repr(solver)
        assert twin.report == SolveReport()
    ew = NonlinearSolver(inner="eisenstat_walker")
    assert copy.deepcopy(ew).uses_eisenstat_walker


def test_the_report_loads_what_was_saved_before_it_counted_newton_iterations():
    report = SolveReport()
    old = {"solves": 3, "iterations": 9, "set_ups": 1, "solve_seconds": 0.5}
    report.load_state_dict({"forward": old, "adjoint": {}})
    assert (report.forward.iterations, report.forward.newton_iterations) == (9, 0)


def test_single_precision_comes_back_as_it_came():
    start = torch.zeros(N, dtype=torch.float32)
    a = torch.ones(N, dtype=torch.float32, requires_grad=True)
    u = solve_nonlinear(lambda u, a: u + a * u**3 - 1.0, start, a, tight(), comm=SELF)
    u.sum().backward()
    assert u.dtype is a.grad.dtype is torch.float32
    exact = 0.6823278038280193
    torch.testing.assert_close(u.detach(), torch.full((N,), exact, dtype=torch.float32))


@pytest.mark.parametrize(
    ("shape", "boundary", "width", "box", "most"),
    [
        ((9,), "periodic", 1, False, 3),
        ((7,), "periodic", 1, False, 7),
        ((12,), "dirichlet", 2, False, 5),
        ((10, 10), "periodic", 1, False, 5),
        ((6, 7), "periodic", 1, False, 12),
        ((6, 7), ("dirichlet", "neumann"), 1, False, 5),
        ((6, 7), "dirichlet", 1, True, 9),
        ((6, 5), "periodic", 1, True, 25),
        ((7, 8), "periodic", 2, False, 35),
        ((4, 5, 6), "dirichlet", 1, False, 7),
        ((3, 4, 5), "periodic", 1, False, 40),
        ((2, 2), "periodic", 1, False, 4),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_coloured_entries_are_torch_s_derivatives(shape, boundary, width, box, most, channels):
    grid = Grid(shape, boundary, SELF)

    def function(u):
        padded = grid.halo(u, width)
        total = (1.0 + torch.arange(u[0].numel(), dtype=torch.float64).view(u[0].shape)) * u**2
        for axis in range(grid.dim):
            for step in (0, 2 * width):
                at = [step if a == axis else width for a in range(grid.dim)]
                part = [slice(s, s + n) for s, n in zip(at, grid.local_shape, strict=True)]
                neighbour = padded[(..., *part)]
                total = total + (1.0 + step + axis) * (neighbour * u).flip(1)
        if box:
            corner = [slice(0, n) for n in grid.local_shape]
            total = total + padded[(..., *corner)] ** 2
        return total - 1.0

    generator = torch.Generator().manual_seed(0)
    u = torch.rand(1, channels, *shape, generator=generator, dtype=torch.float64) + 1.0
    own = ColouredJacobian.on_grid(grid, channels, width, box)
    assert own.colours <= most * channels
    solver = NonlinearSolver(Solver("gmres", "none", 1e-2), 1)
    solve_nonlinear(function, u, (), solver, grid=grid, jacobian=own)
    dense = torch.autograd.functional.jacobian(lambda v: function(v.view_as(u)).ravel(), u.ravel())
    matrix = own.operator.matrix
    found = torch.from_numpy(matrix.convert("dense").getDenseArray().copy())
    torch.testing.assert_close(found, dense, rtol=1e-12, atol=1e-12)


def test_newton_on_a_grid_solves_a_nonlinear_poisson_problem_to_second_order():
    # −∇·((1 + u²) ∇u) = f with u = sin(πx) sin(πy).
    errors = []
    for n in (7, 15, 31):
        grid = Grid((n, n), "dirichlet", SELF)
        x, y = grid.coordinates()
        with torch.enable_grad():
            points = torch.stack([x, y]).requires_grad_()
            u = torch.prod(torch.sin(torch.pi * points), dim=0)
            (slope,) = torch.autograd.grad(u.sum(), points, create_graph=True)
            flux = (1 + u**2) * slope
            source = -sum(
                torch.autograd.grad(flux[i].sum(), points, retain_graph=True)[0][i]
                for i in range(2)
            )
        found = solve_nonlinear(
            lambda v, grid=grid, source=source: (
                -flux_divergence(grid, v, lambda w: 1 + w**2) - source
            ),
            torch.zeros(1, 1, n, n, dtype=torch.float64),
            (),
            NonlinearSolver(Solver("gmres", "gamg", 1e-8), 1e-10),
            grid=grid,
            jacobian=ColouredJacobian.on_grid(grid),
        )
        errors.append(float((found[0, 0] - u.detach()).abs().max()))
    assert min(errors[0] / errors[1], errors[1] / errors[2]) > 3.5


def test_a_lagged_preconditioner_is_set_up_less_often_for_the_same_gradient():
    grid, results = Grid((12, 12), "dirichlet", SELF), {}
    for lag in (None, "auto"):
        solver = NonlinearSolver(Solver("gmres", "gamg", 1e-10, lag_preconditioner=lag), 1e-10)
        source = torch.full((1, 1, 12, 12), 20.0, dtype=torch.float64, requires_grad=True)
        u = solve_nonlinear(
            lambda u, f: -flux_divergence(grid, u, lambda w: 1 + w**2) - f,
            torch.zeros_like(source),
            source,
            solver,
            jacobian=ColouredJacobian.on_grid(grid),
            grid=grid,
        )
        (gradient,) = torch.autograd.grad(u.square().sum(), source)
        results[lag] = gradient, solver.report.forward.set_ups
    torch.testing.assert_close(results["auto"][0], results[None][0], rtol=1e-6, atol=1e-8)
    assert results["auto"][1] < results[None][1]
